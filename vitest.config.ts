import { defineConfig } from 'vitest/config'

const project = (name: string, seconds: number, workers: number) => ({
  test: {
    name,
    include: [`__test__/${name}/**/*.test.ts`],
    testTimeout: seconds * 1000,
    hookTimeout: seconds * 1000,
    maxWorkers: workers,
    // Every file starts servers and processes of its own; nothing is shared between files.
    isolate: true,
    pool: 'forks' as const,
  },
})

export default defineConfig({
  test: {
    // Interop tests mostly wait for other processes, so more of them run side by side than there are processors.
    projects: [project('unit', 20, 2), project('conformance', 60, 3), project('interop', 120, 4)],
  },
})
