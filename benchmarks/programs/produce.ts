// How long `--count` calls of delay() take after `--warm` others: `--in-flight` under way at once, or with `--batch` so many by a
// call of delayMany(), and the next ones when all of those are done. The first task has the number `--from`. With `--countdown` they are due
// after so many seconds.

import { numbers } from './arguments.ts'
import { timed } from './main-thread.ts'
import { add, app } from './tasks.ts'

const options = numbers({ warm: 0, count: 0, 'in-flight': 1, batch: 0, from: 0, countdown: 0 })
let next = options.from

const send =
  options.countdown === 0
    ? (number: number) => add.delay(number, 2)
    : (number: number) => add.applyAsync([number, 2], { countdown: options.countdown })

async function inLanes(end: number): Promise<void> {
  const lane = async (): Promise<void> => {
    while (next < end) await send(next++)
  }
  await Promise.all(Array.from({ length: options['in-flight'] }, lane))
}

async function inBatches(end: number): Promise<void> {
  for (let begin = next; begin < end; begin = next) {
    const length = Math.min(options.batch, end - begin)
    next += length
    await add.delayMany(Array.from({ length }, (_, index): [number, number] => [begin + index, 2]))
  }
}

const sendUntil = options.batch === 0 ? inLanes : inBatches
const begin = options.from + options.warm
await sendUntil(begin)
const found = await timed(options.count, () => sendUntil(begin + options.count))
await app.close()
console.log(JSON.stringify(found))
