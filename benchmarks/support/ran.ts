import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** When the first task of a worker began, in milliseconds since 1970. Throws unless 0 to `count` - 1 ran once each. */
export function checkRan(folder: string, count: number): number {
  const times = new Uint8Array(count)
  let firstAt = Number.POSITIVE_INFINITY
  let strange = 0
  for (const name of readdirSync(folder)) {
    const worker = JSON.parse(readFileSync(join(folder, name), 'utf8')) as { firstAt: number; ran: number[] }
    firstAt = Math.min(firstAt, worker.firstAt)
    for (const number of worker.ran) {
      if (number in times) times[number]! += 1
      else strange += 1
    }
  }
  const missing = times.filter((each) => each === 0).length
  const repeated = times.filter((each) => each > 1).length
  if (missing + repeated + strange > 0) {
    throw new Error(
      `of ${count} tasks ${missing} did not run, ${repeated} ran more than once, ${strange} were not sent`,
    )
  }
  return firstAt
}
