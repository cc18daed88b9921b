// What ../programs/first-send.ts says, with BullMQ.

import { Queue } from 'bullmq'
import { connection, numbers, QUEUE } from './support.mjs'

const queue = new Queue(QUEUE, { connection })
await queue.add('add', { x: numbers({ from: 0 }).from, y: 2 })
process.stdout.write('sent\n')
await queue.close()
