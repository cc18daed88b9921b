import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fleet, type Fleet } from '../support/fleet.ts'
import { celeriac } from '../support/processes.ts'
import { type RedisServer, startRedis, temporaryFolder } from '../support/servers.ts'

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

/** Sends tasks of a second, and waits until the first two run on a worker that runs two at once. */
async function busyWorker(queue: string, task = 'node.work', milliseconds = 1000) {
  const results = []
  for (let count = 0; count < 6; count++) {
    results.push(await nodes.app.sendTask(task, [milliseconds], { queue }))
  }
  const worker = await nodes.nodeWorker({ queues: queue, args: ['-c', '2'] })
  const ids = results.map(({ id }) => id)
  const running = () =>
    nodes.ledger.after('begin').filter((line) => ids.includes(line.split(' ')[0] as string))
  await nodes.ledger.until(30, 'two running tasks', () => running().length >= 2)
  return { worker, results, running }
}

test.each(['SIGTERM', 'SIGINT'] as const)(
  'on %s a worker ends what it runs and hands back what it has not begun',
  async (signal) => {
    const queue = `warm_${signal}`
    const { worker, results, running } = await busyWorker(queue)
    const { code } = await worker.end(signal)
    expect(code).toBe(signal === 'SIGTERM' ? 0 : 1)
    const begun = running().map((line) => line.split(' ')[0])
    const states = await Promise.all(results.map((result) => result.state()))
    // What was begun is done, and the rest is in the queue, not claimed.
    expect(
      results
        .filter((_, index) => states[index] === 'SUCCESS')
        .map(({ id }) => id)
        .toSorted(),
    ).toEqual(begun.toSorted())
    expect(await nodes.app.broker.queueLength(queue)).toBe(results.length - begun.length)
    expect(await redis.command('hlen', 'unacked')).toBe('0')
  },
)

test('a worker whose app is closed ends in good order, and takes its pidfile with it', async () => {
  const folder = temporaryFolder()
  const [path, pidfile] = [join(folder, 'closing.mjs'), join(folder, 'worker.pid')]
  const celeriacUrl = new URL('../../dist/index.js', import.meta.url)
  writeFileSync(
    path,
    `import { Celery } from ${JSON.stringify(celeriacUrl.href)}
export const app = new Celery({ broker: ${JSON.stringify(`${redis.url}/0`)} })
app.task({ name: 'close' }, () => void app.close())
`,
  )
  const worker = celeriac(['-A', path, 'worker', '-Q', 'closing', '-l', 'info', '--pidfile', pidfile])
  await worker.says(/ready/)
  expect(existsSync(pidfile)).toBe(true)
  await nodes.app.sendTask('close', [], { queue: 'closing' })
  expect(await worker.finished).toMatchObject({ code: 0 })
  expect(existsSync(pidfile)).toBe(false)
})

test('on a second SIGINT a worker hands back what it runs too', async () => {
  const { worker, results } = await busyWorker('cold_int', 'node.work', 600_000)
  worker.child.kill('SIGINT')
  await worker.says(/warm shutdown/i)
  await worker.end('SIGINT')
  expect(await nodes.app.broker.queueLength('cold_int')).toBe(results.length)
  expect(await redis.command('hlen', 'unacked')).toBe('0')
})

test('on SIGQUIT a worker hands back what it runs at once', async () => {
  const { worker, results } = await busyWorker('cold_quit', 'node.work', 600_000)
  await worker.end('SIGQUIT')
  expect(await nodes.app.broker.queueLength('cold_quit')).toBe(results.length)
  const next = await nodes.nodeWorker({ queues: 'cold_quit' })
  await nodes.ledger.until(30, 'all six tasks again', () =>
    results.every(({ id }) => nodes.ledger.runsOf(id).some((run) => run.process === next.child.pid)),
  )
  await next.end('SIGKILL')
})

test('a task with early acks is not run again when its worker is killed, one with late acks is', async () => {
  const env = { WORKER_LEASE: '1' }
  const early = await nodes.app.sendTask('node.early', [600_000], { queue: 'acks' })
  const late = await nodes.app.sendTask('node.work', [600_000], { queue: 'acks' })
  const first = await nodes.nodeWorker({ queues: 'acks', env })
  await nodes.ledger.until(30, 'both tasks', (lines) => {
    return [early, late].every(({ id }) => lines.some((line) => line.startsWith(`begin ${id}`)))
  })
  await first.end('SIGKILL')
  const second = await nodes.nodeWorker({ queues: 'acks', env })
  await nodes.ledger.until(30, 'the late one again', () =>
    nodes.ledger.runsOf(late.id).some((run) => run.process === second.child.pid),
  )
  expect(nodes.ledger.after('begin').filter((line) => line.startsWith(early.id))).toHaveLength(1)
  await second.end('SIGKILL')
})
