// The tasks of our workers. RAN is a folder: at its end a worker writes there when it began, and what it ran.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Celery } from 'celeriac'

export const app = new Celery('bench', { taskDefaultQueue: 'bench' })

const ran: number[] = []
let firstAt: number | undefined

export const add = app.task({ name: 'bench.add' }, (x: number, y: number) => {
  firstAt ??= Date.now()
  ran.push(x)
  return x + y
})

const folder = process.env['RAN']
if (folder !== undefined) {
  process.once('exit', () => {
    if (firstAt !== undefined)
      writeFileSync(join(folder, `${process.pid}.json`), JSON.stringify({ firstAt, ran }))
  })
}
