// A worker of BullMQ's, `--concurrency` jobs at once. It says what it ran as ../programs/tasks.ts does; its end is the last
// job that is completed.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'bullmq'
import { connection, mainThreadTime, numbers, QUEUE } from './support.mjs'

const { concurrency } = numbers({ concurrency: 100 })
const { RAN: folder, COUNT } = process.env
const count = Number(COUNT)
const ran = []
let completed = 0
let first
let last
const now = () => ({ at: Date.now(), mainThread: mainThreadTime() })

async function run({ data: { x, y } }) {
  first ??= now()
  ran.push(x)
  return x + y
}

const worker = new Worker(QUEUE, run, { connection, concurrency })
worker.on('completed', () => {
  completed += 1
  if (completed !== count) return
  last = now()
  writeFileSync(join(folder, 'done'), '')
})
worker.on('failed', (_job, error) => console.error(error))
worker.on('error', (error) => console.error(error))

process.once('SIGTERM', async () => {
  await worker.close()
  if (first !== undefined) {
    last ??= now()
    const mainThread = last.mainThread === null ? null : last.mainThread - first.mainThread
    const document = { firstAt: first.at, lastAt: last.at, mainThread, ran }
    writeFileSync(join(folder, `${process.pid}.json`), JSON.stringify(document))
  }
  process.exit(0)
})
