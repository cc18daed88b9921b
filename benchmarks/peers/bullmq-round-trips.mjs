// What ../programs/round-trips.ts says, with BullMQ, one under way at a time.

import { Queue, QueueEvents } from 'bullmq'
import { connection, numbers, QUEUE, timed } from './support.mjs'

const options = numbers({ warm: 0, count: 0 })
const queue = new Queue(QUEUE, { connection })
const events = new QueueEvents(QUEUE, { connection })
await events.waitUntilReady()
const waited = []

async function call(x) {
  const begin = performance.now()
  const job = await queue.add('add', { x, y: 2 })
  const sum = await job.waitUntilFinished(events, 60_000)
  waited.push(performance.now() - begin)
  if (sum !== x + 2) throw new Error(`${x} + 2 is ${x + 2}, not ${sum}`)
}

for (let x = 0; x < options.warm; x += 1) await call(x)
waited.length = 0
const found = await timed(options.count, async () => {
  for (let x = options.warm; x < options.warm + options.count; x += 1) await call(x)
})
await events.close()
await queue.close()
waited.sort((a, b) => a - b)
const at = (share) => waited[Math.floor(waited.length * share)]
console.log(JSON.stringify({ ...found, p50: at(0.5), p99: at(0.99) }))
