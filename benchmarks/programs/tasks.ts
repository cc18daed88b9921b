// The tasks of our workers. RAN is a folder: at its end a worker writes there what it ran, and when. The one that runs the
// last of COUNT tasks writes a file `done` there right away, for which the end is awaited.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Celery } from 'celeriac'
import { mainThreadTime } from './main-thread.ts'

const { env } = process

export const app = new Celery('bench', {
  taskDefaultQueue: env['QUEUE'] ?? 'bench',
  taskIgnoreResult: env['IGNORE_RESULT'] === undefined ? undefined : env['IGNORE_RESULT'] === '1',
  taskAcksLate: env['ACKS_LATE'] === undefined ? undefined : env['ACKS_LATE'] === '1',
  workerPrefetchMultiplier: env['PREFETCH'] === undefined ? undefined : Number(env['PREFETCH']),
})

const folder = env['RAN']
const count = Number(env['COUNT'])
const ran: number[] = []
let first: { at: number; mainThread: number | null } | undefined
let last: { at: number; mainThread: number | null } | undefined

export const add = app.task({ name: 'bench.add' }, (x: number, y: number) => {
  first ??= { at: Date.now(), mainThread: mainThreadTime() }
  ran.push(x)
  if (ran.length === count) finish()
  return x + y
})

function finish(): void {
  last = { at: Date.now(), mainThread: mainThreadTime() }
  if (folder !== undefined) writeFileSync(join(folder, 'done'), '')
}

if (folder !== undefined) {
  process.once('exit', () => {
    if (first === undefined) return
    last ??= { at: Date.now(), mainThread: mainThreadTime() }
    const mainThread =
      first.mainThread === null || last.mainThread === null ? null : last.mainThread - first.mainThread
    const document = { firstAt: first.at, lastAt: last.at, mainThread, ran }
    writeFileSync(join(folder, `${process.pid}.json`), JSON.stringify(document))
  })
}
