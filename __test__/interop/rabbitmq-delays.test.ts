/** RabbitMQ holds delayed messages of apps with quorum queues, for both sides in the same place. */

import type { Celery } from 'celeriac'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RabbitMqBroker, startRabbitMqBroker, startVhostBroker } from '../support/brokers.ts'
import { fleet, type Fleet } from '../support/fleet.ts'

/** The queues that nobody declares in the settings are what workers and clients name. */
const ours = { taskCreateMissingQueueType: 'quorum', taskCreateMissingQueueExchangeType: 'topic' } as const
const theirs = { task_create_missing_queue_type: 'quorum', task_create_missing_queue_exchange_type: 'topic' }

let broker: RabbitMqBroker
let both: Fleet

beforeAll(async () => {
  broker = await startRabbitMqBroker()
  both = fleet(broker, { settings: ours, node: ours, python: theirs })
  await both.pythonWorker()
  await both.nodeWorker()
})

afterAll(async () => {
  await both.stop()
  await broker.stop()
})

/** How many messages wait in RabbitMQ for their time: workers have none of these. */
async function held(app: Celery): Promise<number> {
  const lengths = Array.from({ length: 28 }, (_, level) => app.broker.queueLength(`celery_delayed_${level}`))
  return (await Promise.all(lengths)).reduce((sum, length) => sum + length)
}

/** What `times` gave: it began no sooner than it should. */
function inTime(result: unknown): void {
  const [began, eta] = result as [number, number]
  expect(began).toBeGreaterThanOrEqual(eta)
}

test('what Node delays waits in RabbitMQ and not in the workers, and comes to both kinds of them in time', async () => {
  const results = await Promise.all(
    ['node', 'python'].map((queue) =>
      both.app.sendTask(`${queue === 'node' ? 'node' : 'py'}.times`, [], { countdown: 6.5, queue }),
    ),
  )
  expect(await held(both.app)).toBe(2)
  for (const result of results) inTime(await result.get({ timeout: 60 }))
})

test('an eta waits there as a countdown does', async () => {
  const eta = new Date(Date.now() + 5000)
  const result = await both.app.sendTask('node.times', [], { eta, queue: 'node' })
  expect(await held(both.app)).toBe(1)
  inTime(await result.get({ timeout: 60 }))
})

test('what Python delays comes to Node in time', async () => {
  const printed = await both.python.run(`
result = app.send_task('node.times', countdown=6, queue='node')
print(result.id)`)
  expect(await held(both.app)).toBe(1)
  inTime(await both.app.AsyncResult(printed).get({ timeout: 60 }))
})

test('less than a second is waited for by the worker', async () => {
  const result = await both.app.sendTask('node.times', [], { countdown: 0.9, queue: 'node' })
  expect(await held(both.app)).toBe(0)
  inTime(await result.get({ timeout: 60 }))
})

test('a task that is retried with a countdown goes through it again and again', async () => {
  const result = await both.app.sendTask('node.retry', [4, 1], { countdown: 1, queue: 'node' })
  expect(await result.get({ timeout: 60 })).toBe(4)
  expect(both.ledger.after('attempt').filter((id) => id === result.id)).toHaveLength(5)
})

test('Python finds what Node has declared as it would declare it, and Node what Python has', async () => {
  const other = await startVhostBroker()
  const pair = fleet(other, { settings: ours, node: ours, python: theirs })
  // Nobody consumes yet: whoever sends declares what holds the message.
  const result = await pair.app.sendTask('py.times', [], { countdown: 2, queue: 'python' })
  const node = await pair.nodeWorker()
  const python = await pair.pythonWorker()
  inTime(await result.get({ timeout: 60 }))
  const again = await pair.python.run(`
print(json.dumps(app.send_task('node.times', countdown=2, queue='node').get(timeout=60)))`)
  inTime(JSON.parse(again))
  const complaints = /PRECONDITION|Failed to|ERR_CELERIAC/
  for (const worker of [node, python]) expect(worker.output).not.toMatch(complaints)
  await pair.stop()
})

test('where Python has declared them of another type, calls and retries are held by workers', async () => {
  const other = await startVhostBroker()
  const classic = { ...theirs, broker_native_delayed_delivery_queue_type: 'classic' }
  const pair = fleet(other, { settings: ours, node: ours, python: classic })
  await pair.pythonWorker()
  const node = await pair.nodeWorker()
  const delayed = await pair.app.sendTask('node.times', [], { countdown: 4, queue: 'node' })
  const retried = await pair.app.sendTask('node.retry', [2, 2], { queue: 'node' })
  expect(await held(pair.app)).toBe(0)
  inTime(await delayed.get({ timeout: 60 }))
  expect(await retried.get({ timeout: 60 })).toBe(2)
  expect(node.output).toContain('Delayed delivery could not be set up')
  await pair.stop()
})
