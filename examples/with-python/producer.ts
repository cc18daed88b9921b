import { TaskError } from 'celeriac'
import { app } from './tasks.ts'

// A task of the Python worker, by name.
const total = await app.sendTask<number>('reports.total', [[10, 20]], {
  kwargs: { discount: 0.5 },
  queue: 'python',
})
console.log(await total.get({ timeout: 10 }))

// Its exception arrives as data: nothing is imported or evaluated.
const wrong = await app.sendTask('reports.total', [[10, 20]], { kwargs: { discount: 2 }, queue: 'python' })
try {
  await wrong.get({ timeout: 10 })
} catch (error) {
  if (error instanceof TaskError) console.log(error.module, error.type, error.args)
}

await app.close()
