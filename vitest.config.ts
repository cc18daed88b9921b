import { join } from 'node:path'
import { defineConfig } from 'vitest/config'

const project = (name: string, seconds: number, workers: number) => ({
  // What users write works here too: task files in the tests and the examples import the package by its name.
  resolve: { alias: { celeriac: join(import.meta.dirname, 'index.ts') } },
  test: {
    name,
    server: { deps: { external: [/native\.cjs$/] } },
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
    globalSetup: '__test__/support/run-folder.ts',
    // Tests with processes of their own mostly wait for them, so more run side by side than there are processors.
    projects: [
      project('unit', 20, 2),
      project('package', 120, 2),
      project('conformance', 60, 3),
      project('interop', 120, 4),
      project('reliability', 300, 3),
    ],
  },
})
