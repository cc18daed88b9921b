// Workers that wait, several in one process, each with connections of its own. Arguments: how many, the queues with commas, and
// settings as JSON. Says `ready`; then, for each line that it reads, how long each message took since the last one, in µs.
import { createInterface } from 'node:readline'
import { Celery, type CeleryOptions, Worker } from 'celeriac'

const [count = '1', queues = '', settings = '{}'] = process.argv.slice(2)
let took: number[] = []

const workers = Array.from({ length: Number(count) }, (_, place) => {
  const app = new Celery(`idle${place}`, JSON.parse(settings) as CeleryOptions)
  app.task({ name: 'idle.note' }, (sent: number) => {
    took.push(Number(process.hrtime.bigint() / 1000n) - sent)
  })
  return new Worker(app, { queues: queues.split(','), concurrency: 8, hostname: `idle${place}@test` })
})
for (const worker of workers) await worker.start()
console.log('ready')
createInterface({ input: process.stdin }).on('line', () => {
  console.log(JSON.stringify(took))
  took = []
})
