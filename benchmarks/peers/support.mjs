// What the programs of the peers share. They are copied to where the packages are installed, so they stand alone; each takes
// its numbers from the command line as those of ../programs do, and the server from REDIS_URL.

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'

export function numbers(defaults) {
  const options = Object.fromEntries(Object.keys(defaults).map((name) => [name, { type: 'string' }]))
  const { values } = parseArgs({ options })
  return {
    ...defaults,
    ...Object.fromEntries(Object.entries(values).map(([name, text]) => [name, Number(text)])),
  }
}

const { hostname, port } = new URL(process.env.REDIS_URL ?? 'redis://localhost:6379')

/** As BullMQ takes it. */
export const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null }

export const QUEUE = 'bench'

/** Microseconds for which the main thread has had a processor; null where the system does not tell. */
export function mainThreadTime() {
  try {
    return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1000
  } catch {
    return null
  }
}

/** Runs `work`: how long that took, and the main thread's processor time for each of `count`. */
export async function timed(count, work) {
  const before = mainThreadTime()
  const begin = performance.now()
  await work()
  const seconds = (performance.now() - begin) / 1000
  const after = mainThreadTime()
  return { seconds, mainThread: before === null ? null : (after - before) / count }
}

/** Numbers from `begin` to below `end`, `inFlight` calls of `send` under way at once. */
export async function inLanes(begin, end, inFlight, send) {
  let next = begin
  const lane = async () => {
    while (next < end) await send(next++)
  }
  await Promise.all(Array.from({ length: inFlight }, lane))
}

/** Numbers from `begin` to below `end`, so many a call of `send`. */
export async function inBatches(begin, end, size, send) {
  for (let first = begin; first < end; first += size) {
    await send(Array.from({ length: Math.min(size, end - first) }, (_, index) => first + index))
  }
}
