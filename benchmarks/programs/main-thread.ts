import { readFileSync } from 'node:fs'

/** Microseconds for which the main thread has had a processor; null where the system does not tell. */
export function mainThreadTime(): number | null {
  try {
    const [nanoseconds] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')
    return Number(nanoseconds) / 1000
  } catch {
    return null
  }
}

/** Runs `work`: how long that took, and the main thread's processor time for each of `count`. */
export async function timed(
  count: number,
  work: () => Promise<void>,
): Promise<{ seconds: number; mainThread: number | null }> {
  const before = mainThreadTime()
  const begin = performance.now()
  await work()
  const seconds = (performance.now() - begin) / 1000
  const after = mainThreadTime()
  return { seconds, mainThread: before === null || after === null ? null : (after - before) / count }
}
