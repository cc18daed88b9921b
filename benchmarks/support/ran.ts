import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** What the processes of a worker wrote about themselves. */
export interface Ran {
  /** When the body of the first task began, in milliseconds since 1970. */
  firstAt: number
  /** When the body of the last task began. */
  lastAt: number
  /** Microseconds of processor time that the main thread had from the first task to the last, where that is known. */
  mainThread: number | null
  /** When each body began, in order, where the workers say it. */
  began: number[]
}

/** One process. */
type Worker = Omit<Ran, 'began'> & { ran: number[]; began?: number[] }

/** Whether the workers that write to this folder have begun so many tasks. */
export function hasRun(folder: string, count: number): boolean {
  const progress = statSync(join(folder, 'progress'), { throwIfNoEntry: false })
  return existsSync(join(folder, 'done')) || (progress !== undefined && progress.size >= count)
}

/** Throws unless the tasks from 0 to `count` - 1 ran once each. */
export function checkRan(folder: string, count: number): Ran {
  const times = new Uint8Array(count)
  const found: Ran = { firstAt: Number.POSITIVE_INFINITY, lastAt: 0, mainThread: null, began: [] }
  let strange = 0
  for (const name of readdirSync(folder).filter((each) => each.endsWith('.json'))) {
    const worker = JSON.parse(readFileSync(join(folder, name), 'utf8')) as Worker
    found.firstAt = Math.min(found.firstAt, worker.firstAt)
    found.lastAt = Math.max(found.lastAt, worker.lastAt)
    if (worker.mainThread !== null) found.mainThread = (found.mainThread ?? 0) + worker.mainThread
    found.began.push(...(worker.began ?? []))
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
  found.began.sort((a, b) => a - b)
  return found
}
