import { readFileSync } from 'node:fs'
import { descendants } from './load.ts'

const SAME = 0.002
const INTERVAL_MS = 250
const TIMES = 4
const PATIENCE_MS = 20_000

/** The resident memory of a process and all that it started, in KiB. Pages that they share count for each. */
export function residentMemory(pid: number): number {
  return descendants(pid).reduce((sum, each) => sum + memoryOf(each, 'VmRSS'), 0)
}

function memoryOf(pid: number, field: string): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0)
  } catch {
    return 0
  }
}

/** {@link residentMemory} once it has stayed the same for a second. */
export async function settledMemory(pid: number): Promise<number> {
  const end = performance.now() + PATIENCE_MS
  let last = residentMemory(pid)
  let same = 0
  while (same < TIMES && performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS))
    const now = residentMemory(pid)
    same = Math.abs(now - last) <= last * SAME ? same + 1 : 0
    last = now
  }
  return last
}
