import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fleet, type Fleet } from '../support/fleet.ts'
import { celeriac, node } from '../support/processes.ts'
import { freePort, type RedisServer, startRedis, temporaryFolder } from '../support/servers.ts'
import { within } from '../support/wait.ts'

let redis: RedisServer
let nodes: Fleet

beforeAll(async () => {
  redis = await startRedis()
  nodes = fleet(`${redis.url}/0`, `${redis.url}/1`)
})

afterAll(async () => {
  await nodes.stop()
  await redis.stop()
})

test('a rejected promise that a task left behind is logged with the task, and the worker goes on', async () => {
  const worker = await nodes.nodeWorker({ queues: 'stray' })
  const result = await nodes.app.sendTask('node.stray_rejection', [], { queue: 'stray' })
  expect(await result.get({ timeout: 30 })).toBe(1)
  await worker.says(new RegExp(`CRITICAL.*node\\.stray_rejection\\[${result.id}\\].*stray`))
  const next = await nodes.app.sendTask('node.add', [1, 2], { queue: 'stray' })
  expect(await next.get({ timeout: 30 })).toBe(3)
  expect((await worker.end()).code).toBe(0)
})

test('a listener that throws fails its own task, and the worker hands back the others and ends with 70', async () => {
  const queue = 'crash'
  const worker = await nodes.nodeWorker({ queues: queue })
  const other = await nodes.app.sendTask('node.work', [600_000], { queue })
  await nodes.ledger.until(30, 'the other task', (lines) =>
    lines.some((line) => line.startsWith(`begin ${other.id}`)),
  )
  const culprit = await nodes.app.sendTask('node.throwing_listener', [], { queue, softTimeLimit: 0.2 })
  const { code, stderr } = await within(30, 'the end of the worker', worker.finished)
  expect(code).toBe(70)
  expect(stderr).toMatch(
    new RegExp(`CRITICAL.*node\\.throwing_listener\\[${culprit.id}\\].*from the listener`),
  )
  await expect(culprit.get({ timeout: 30 })).rejects.toMatchObject({ args: ['from the listener'] })
  expect(await nodes.app.broker.queueLength(queue)).toBe(1)
  expect(await redis.command('hlen', 'unacked')).toBe('0')
})

test('what is thrown outside of a body fails its task and puts its message into the dead list; the others are back in their queue', async () => {
  const queue = 'outside'
  const worker = await nodes.nodeWorker({ queues: queue })
  const other = await nodes.app.sendTask('node.work', [600_000], { queue })
  await nodes.ledger.until(30, 'the other task', (lines) =>
    lines.some((line) => line.startsWith(`begin ${other.id}`)),
  )
  const culprit = await nodes.app.sendTask('node.throw_outside', [], { queue })
  const { code, stderr } = await within(30, 'the end of the worker', worker.finished)
  expect(code).toBe(70)
  expect(stderr).toMatch(new RegExp(`CRITICAL.*node\\.throw_outside\\[${culprit.id}\\].*outside`))
  await expect(culprit.get({ timeout: 30 })).rejects.toMatchObject({ type: 'TypeError', args: ['outside'] })
  expect(await nodes.app.broker.queueLength(queue)).toBe(1)
  const letters = await nodes.app.deadLetters.list({ queue })
  expect(letters).toEqual([
    expect.objectContaining({
      taskId: culprit.id,
      reason: 'rejected',
      detail: 'the task ended with TypeError: outside',
    }),
  ])
})

test('a letter of Reject has its reason', async () => {
  const queue = 'reject'
  const worker = await nodes.nodeWorker({ queues: queue })
  const result = await nodes.app.sendTask('node.reject', [], { queue })
  await expect(result.get({ timeout: 30 })).rejects.toMatchObject({ type: 'Reject' })
  expect(await nodes.app.deadLetters.list({ queue })).toEqual([
    expect.objectContaining({
      taskId: result.id,
      detail: 'the task ended with Reject: reject requeue=false: not for us',
    }),
  ])
  expect((await worker.end()).code).toBe(0)
})

test('a body that ends the process leaves a line with it and what runs beside it', async () => {
  const queue = 'exit'
  const worker = await nodes.nodeWorker({ queues: queue })
  const other = await nodes.app.sendTask('node.work', [600_000], { queue })
  await nodes.ledger.until(30, 'the other task', (lines) =>
    lines.some((line) => line.startsWith(`begin ${other.id}`)),
  )
  const culprit = await nodes.app.sendTask('node.exit', [3], { queue })
  const { code, stderr } = await within(30, 'the end of the worker', worker.finished)
  expect(code).toBe(3)
  const [line = '', ...rest] = stderr.split('\n').filter((each) => each.includes('The process ends'))
  expect(rest).toEqual([])
  expect(line).toMatch(/CRITICAL.*exit code 3, ended by task node\.exit\[/)
  for (const task of [`node.exit[${culprit.id}]`, `node.work[${other.id}]`]) expect(line).toContain(task)
})

test('SIGTERM ends a worker that waits for its broker, with 0', async () => {
  const env = { CELERY_BROKER_URL: `redis://127.0.0.1:${await freePort()}/0` }
  const folder = temporaryFolder()
  const module = join(folder, 'app.mjs')
  const api = pathToFileURL(join(import.meta.dirname, '..', '..', 'dist', 'index.js')).href
  writeFileSync(
    module,
    `import { Celery } from '${api}'\nexport const app = new Celery('t', { brokerConnectionRetryOnStartup: true })\n`,
  )
  const worker = celeriac(['-A', module, 'worker', '-l', 'info'], { env })
  await worker.says('cannot reach the broker')
  const { code, stderr } = await worker.end('SIGTERM')
  expect(stderr).not.toContain('ERR_CELERIAC')
  expect(code).toBe(0)
})

test('a process whose app was closed under a running worker ends by itself', async () => {
  const file = join(temporaryFolder(), 'close.mjs')
  const api = pathToFileURL(join(import.meta.dirname, '..', '..', 'dist', 'index.js')).href
  writeFileSync(
    file,
    `import { Celery, Worker } from '${api}'
const app = new Celery('t', { broker: '${redis.url}/2', backend: '${redis.url}/2' })
const worker = new Worker(app)
await worker.start()
await app.close()
await worker.finished()
console.log('closed')
`,
  )
  const { code, stdout } = await within(30, 'the end of the process', node(file).finished)
  expect({ code, stdout }).toEqual({ code: 0, stdout: 'closed\n' })
})
