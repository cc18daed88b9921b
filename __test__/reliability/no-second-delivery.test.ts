import { describe, expect, test } from 'vitest'
import { type BrokerKind, brokers, startRedisBroker } from '../support/brokers.ts'
import { fleet } from '../support/fleet.ts'
import { expectOnce } from '../support/reliability/expectations.ts'
import { figure } from '../support/reliability/figures.ts'
import { redisTime } from '../support/reliability/redis-time.ts'
import { until } from '../support/wait.ts'

const QUEUE = 'work'

/** Leases of so many seconds, beside Python workers whose visibility timeout is over long before the task. */
const settings = (kind: BrokerKind, lease: number) => ({
  node: { ...kind.lease(lease), brokerTransportOptions: kind.impatience(2) },
  python: { broker_transport_options: kind.impatience(2) },
})

for (const kind of brokers) {
  describe(`on ${kind.name}`, () => {
    test('a task that blocks the event loop for three lease times runs once', async () => {
      const lease = 4
      const broker = await kind.start()
      const nodes = fleet(broker, settings(kind, lease))
      // The blocked worker holds others too, which may not run twice either.
      const blocking = await nodes.app.sendTask('node.block', [3000 * lease], { queue: QUEUE })
      const worker = await nodes.nodeWorker({ queues: QUEUE, args: ['-c', '2'] })
      await nodes.ledger.until(30, 'the task', () => nodes.ledger.runsOf(blocking.id).length > 0)
      const others = await Promise.all(
        Array.from({ length: 20 }, () => nodes.app.sendTask('node.work', [50], { queue: QUEUE })),
      )
      await nodes.nodeWorker({ queues: QUEUE, args: ['-c', '2'] })
      await nodes.pythonWorker({ queues: QUEUE })
      await expectOnce(
        broker,
        nodes,
        QUEUE,
        [blocking, ...others].map(({ id }) => id),
      )
      const [run] = nodes.ledger.runsOf(blocking.id)
      expect(run?.process).toBe(worker.child.pid)
      expect((run?.ended ?? 0) - (run?.began ?? 0)).toBeGreaterThanOrEqual(3000 * lease)
      expect(await blocking.get({ timeout: 10 })).toBe(null)
      await nodes.stop()
      await broker.stop()
    })

    test('tasks with an ETA of ten lease times run once, on time, where they were held', async () => {
      const lease = 2
      const broker = await kind.start()
      const nodes = fleet(broker, settings(kind, lease))
      const eta = new Date(Date.now() + 10_000 * lease)
      const tasks = await Promise.all(
        Array.from({ length: 30 }, () => nodes.app.sendTask('node.work', [10], { queue: QUEUE, eta })),
      )
      const worker = await nodes.nodeWorker({ queues: QUEUE })
      await until(20, 'every task held', async () => (await broker.held()) === tasks.length)
      await nodes.nodeWorker({ queues: QUEUE })
      await nodes.pythonWorker({ queues: QUEUE })
      await expectOnce(
        broker,
        nodes,
        QUEUE,
        tasks.map(({ id }) => id),
      )
      for (const run of nodes.ledger.runs) {
        expect(run.process).toBe(worker.child.pid)
        expect(run.began).toBeGreaterThanOrEqual(eta.getTime())
        expect(run.began).toBeLessThan(eta.getTime() + 5000)
      }
      await nodes.stop()
      await broker.stop()
    })

    test('50,000 tasks with an ETA, held by one worker for many renewals, run once', async () => {
      // A round of renewals is fifty scripts: on a busy machine it takes seconds.
      const lease = 10
      const broker = await kind.start()
      const nodes = fleet(broker, settings(kind, lease))
      const worker = await nodes.nodeWorker({ queues: QUEUE })
      const eta = new Date(Date.now() + 60_000)
      const ids: string[] = []
      while (ids.length < 50_000) {
        const batch = Array.from({ length: 1000 }, () =>
          nodes.app.sendTask('node.work', [0], { queue: QUEUE, eta }),
        )
        for (const { id } of await Promise.all(batch)) ids.push(id)
      }
      await until(60, 'every task held', async () => (await broker.held()) === ids.length)
      const others = [await nodes.nodeWorker({ queues: QUEUE }), await nodes.pythonWorker({ queues: QUEUE })]
      const seconds = (eta.getTime() - Date.now()) / 1000
      figure(`${kind.name}: seconds for which 50,000 tasks were held`, seconds)
      expect(seconds).toBeGreaterThan(2 * lease)
      await expectOnce(broker, nodes, QUEUE, ids, 200)
      expect(nodes.ledger.of(worker.child.pid).begun).toBe(ids.length)
      for (const other of others) expect(nodes.ledger.of(other.child.pid).begun).toBe(0)
      await nodes.stop()
      await broker.stop()
    })

    test('what a Python worker acknowledges late and runs for four of our lease times is left to it', async () => {
      const lease = 2
      const broker = await kind.start()
      const both = fleet(broker, { node: kind.lease(lease) })
      // Of threads: one whose tasks run in its main thread sends no heartbeats meanwhile, and RabbitMQ takes it for dead.
      const worker = await both.pythonWorker({ queues: QUEUE, args: ['-P', 'threads', '-c', '1'] })
      const tasks = [
        await both.app.sendTask('node.work', [4000 * lease], { queue: QUEUE }),
        await both.app.sendTask('node.work', [10], { queue: QUEUE }),
      ]
      await both.ledger.until(30, 'the task', () => both.ledger.runs.length > 0)
      await until(10, 'the second one prefetched', async () => (await broker.waiting(QUEUE)) === 0)
      await both.nodeWorker({ queues: QUEUE })
      await expectOnce(
        broker,
        both,
        QUEUE,
        tasks.map(({ id }) => id),
      )
      expect(both.ledger.of(worker.child.pid).begun).toBe(2)
      await both.stop()
      await broker.stop()
    })
  })
}

test('the renewals of 50,000 leases of the default length cost Redis less than 5 % of a processor', async () => {
  const broker = await startRedisBroker()
  const lease = 9
  const nodes = fleet(broker, { node: { workerLease: lease } })
  await nodes.nodeWorker({ queues: QUEUE })
  const eta = new Date(Date.now() + 3_600_000)
  for (let sent = 0; sent < 50_000; sent += 1000) {
    const batch = Array.from({ length: 1000 }, () =>
      nodes.app.sendTask('node.work', [0], { queue: QUEUE, eta }),
    )
    await Promise.all(batch)
  }
  await until(60, 'every task held', async () => (await broker.held()) === 50_000)
  const before = await redisTime(broker.server)
  await until(40, 'five renewals', () => performance.now() - before.at > (5000 * lease) / 3)
  const after = await redisTime(broker.server)
  const share = (busy: number): string => `${((100 * busy) / (after.at - before.at)).toFixed(2)} %`
  const scripts = after.scripts - before.scripts
  const processor = after.processor - before.processor
  figure(`Redis: all scripts with 50,000 leases of ${lease} s`, share(scripts))
  figure(
    `Redis: all scripts with 50,000 leases of 30 s (the same, not as often)`,
    share(scripts / (30 / lease)),
  )
  figure(`Redis: processor time with 50,000 leases of ${lease} s`, share(processor))
  figure(`Redis: processor time with 50,000 leases of 30 s`, share(processor / (30 / lease)))
  expect(processor / (30 / lease) / (after.at - before.at)).toBeLessThan(0.05)
  expect(await broker.held()).toBe(50_000)
  expect(scripts).toBeGreaterThan(0)
  await nodes.stop()
  await broker.stop()
})
