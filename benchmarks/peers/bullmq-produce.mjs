// What ../programs/produce.ts does, with BullMQ: add(), or with `--batch` addBulk(). Its jobs are kept as long as by default,
// or with `--forget 1` until they are done.

import { Queue } from 'bullmq'
import { connection, inBatches, inLanes, numbers, QUEUE, timed } from './support.mjs'

const options = numbers({ warm: 0, count: 0, 'in-flight': 1, batch: 0, from: 0, forget: 0 })
const queue = new Queue(QUEUE, { connection, defaultJobOptions: { removeOnComplete: options.forget === 1 } })
await queue.waitUntilReady()

const job = (x) => ({ name: 'add', data: { x, y: 2 } })
function send(begin, end) {
  return options.batch === 0
    ? inLanes(begin, end, options['in-flight'], (x) => queue.add('add', { x, y: 2 }))
    : inBatches(begin, end, options.batch, (batch) => queue.addBulk(batch.map(job)))
}

const begin = options.from + options.warm
await send(options.from, begin)
const found = await timed(options.count, () => send(begin, begin + options.count))
await queue.close()
console.log(JSON.stringify(found))
