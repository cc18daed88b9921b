import { afterEach, describe, expect, test } from 'vitest'
import { type RedisBroker, startRedisBroker, startVhostBroker } from '../support/brokers.ts'
import { fleet, type Fleet } from '../support/fleet.ts'
import { BUSY } from '../support/reliability/expectations.ts'
import type { Running } from '../support/processes.ts'
import { figure, spread } from '../support/reliability/figures.ts'
import { Load } from '../support/reliability/load.ts'
import { rawTask } from '../support/reliability/messages.ts'
import { until } from '../support/wait.ts'

/** Python's restore, as often as a test can wait for. */
const restoring = { visibility_timeout: 5, unacked_restore_interval: 1, unacked_restore_throttle: 1 }
/** Python workers of threads, which go on to claim while bodies run. */
const threads = (count: number): string[] => ['-P', 'threads', '-c', String(count)]

const ends: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end()
})

async function start(python: Record<string, unknown>): Promise<{ broker: RedisBroker; both: Fleet }> {
  const broker = await startRedisBroker()
  ends.push(() => broker.stop())
  const both = fleet(broker, { python })
  ends.push(() => both.stop())
  return { broker, both }
}

describe('beside Python', () => {
  // The other side is told to leave it alone for an hour.
  for (const [who, ofNode, ofPython] of [
    ['Python restores', 3600, 5],
    ['ours restore', 5, 3600],
  ] as const) {
    test(`what a killed Python worker held comes back while a Node worker drains another queue at full speed: ${who}`, async () => {
      const { broker, both } = await start({
        broker_transport_options: { ...restoring, visibility_timeout: ofPython },
        worker_prefetch_multiplier: 0,
      })
      const ids = Array.from({ length: 300 }, (_, index) => `held-${index}`)
      const victim = await both.pythonWorker({ queues: 'held', args: threads(1) })
      // The first occupies the only thread, so that the others are held and none of them begins.
      await broker.push(
        'held',
        rawTask({ task: 'node.work', id: 'blocker', queue: 'held', args: [60_000] }),
        ...ids.map((id) => rawTask({ task: 'node.work', id, queue: 'held', args: [100] })),
      )
      await until(30, 'the record of all', async () => (await broker.held()) === ids.length + 1)
      const due = Date.now() + 5000
      await victim.end('SIGKILL')
      expect(both.ledger.ended.size).toBe(0)

      // Another queue, never empty.
      const busy = (): Promise<void> =>
        broker.push(
          'busy',
          ...Array.from({ length: 20_000 }, () => rawTask({ task: 'node.add', queue: 'busy', args: [1, 2] })),
        )
      for (let batch = 0; batch < 5; batch++) await busy()
      await both.nodeWorker({
        queues: 'busy',
        settings: { brokerTransportOptions: { visibility_timeout: ofNode, unacked_restore_interval: 1 } },
      })
      await both.pythonWorker({ queues: 'held', args: threads(20) })
      let drained = 0
      let waiting = await broker.waiting('busy')
      const began = Date.now()
      await until(60, 'every task that was held', async () => {
        const now = await broker.waiting('busy')
        drained += waiting - now
        waiting = now
        if (now < 40_000) {
          await busy()
          waiting += 20_000
        }
        return ids.every((id) => both.ledger.ended.has(id))
      })
      const rate = drained / ((Date.now() - began) / 1000)
      const begins = ids.map((id) => both.ledger.runsOf(id).at(-1)?.began ?? 0)
      const watches = Number(
        /cmdstat_watch:calls=(\d+)/.exec(await broker.server.command('info', 'commandstats'))?.[1] ?? 0,
      )
      figure(
        `${who}: ${ids.length} messages of a killed Python worker beside ${Math.round(rate)} tasks/s of ours`,
        `the first ${(Math.min(...begins) - due) / 1000} s after they were due, the last ${(Math.max(...begins) - due) / 1000} s; ` +
          `${watches} WATCHes`,
      )
      expect(Math.max(...begins) - due).toBeLessThan(1000 * (10 + BUSY))
      expect(rate).toBeGreaterThan(500)
      await until(10, 'nothing of it held', async () => {
        const held = await broker.server.command('hvals', 'unacked')
        return !held.includes('held-')
      })
    })
  }

  test('one Node worker and one Python worker share a queue by what they can do', async () => {
    const { broker, both } = await start({ broker_transport_options: restoring })
    const slots = 10
    // Together they do about 1,000 a second.
    const load = new Load(both, 15)

    const alone = await both.nodeWorker({ queues: 'shared', args: ['-c', String(slots)] })
    const nodeAlone = await load.run('the Node worker alone', 3000, 1)
    await alone.end()
    await both.pythonWorker({ queues: 'shared', args: threads(slots) })
    const pythonAlone = await load.run('the Python worker alone', 1500, 1)
    const { pid } = (await both.nodeWorker({ queues: 'shared', args: ['-c', String(slots)] })).child

    const capacity = nodeAlone.rate + pythonAlone.rate
    const parts = { node: nodeAlone.rate / capacity, python: pythonAlone.rate / capacity }
    for (const rate of [1000, Math.ceil(2 * capacity)]) {
      const { by, total } = await load.run(`both at ${rate} tasks/s`, rate, 5)
      const node = (by.get(pid ?? 0) ?? 0) / total
      figure(
        `shares at ${rate} tasks/s (Node ${nodeAlone.rate}/s alone, Python ${pythonAlone.rate}/s alone)`,
        `Node ${percent(node)}, Python ${percent(1 - node)}; by capacity ${percent(parts.node)} and ${percent(parts.python)}`,
      )
      expect(Math.abs(node - parts.node)).toBeLessThan(0.2)
      expect(node).toBeGreaterThan(parts.node / 2)
      expect(1 - node).toBeGreaterThan(parts.python / 2)
    }
    await until(10, 'nothing held', async () => (await broker.held()) === 0)
  })

  test('a burst is not taken by a worker that cannot begin it while another one is idle', async () => {
    const { broker, both } = await start({ broker_transport_options: restoring })
    const slots = 10
    await both.pythonWorker({ queues: 'shared', args: threads(slots) })
    const { pid } = (await both.nodeWorker({ queues: 'shared', args: ['-c', String(slots)] })).child
    const load = new Load(both, 500)
    for (const how of ['at once', 'once more']) {
      const { by, total } = await load.run(`a burst, ${how}`, 4 * slots, 0)
      const node = by.get(pid ?? 0) ?? 0
      figure(
        `of ${total} tasks ${how}`,
        `Node ran ${node}, Python ${total - node}, of ${slots} at a time each`,
      )
      expect(node).toBeGreaterThanOrEqual(slots)
      expect(total - node).toBeGreaterThanOrEqual(slots)
    }
    await until(10, 'nothing held', async () => (await broker.held()) === 0)
  })
})

describe('beside Python on RabbitMQ', () => {
  test('two Node workers and a Python worker share a queue by what they can do', async () => {
    const broker = await startVhostBroker()
    const both = fleet(broker)
    const slots = 10
    const load = new Load(both, 30)
    const startNode = () => both.nodeWorker({ queues: 'shared', args: ['-c', String(slots)] })

    const alone = await startNode()
    const nodeAlone = await load.run('the Node worker alone', 1000, 1)
    await alone.end()
    const python = await both.pythonWorker({ queues: 'shared', args: threads(slots) })
    const pythonAlone = await load.run('the Python worker alone', 1000, 1)
    const nodes = [await startNode(), await startNode()]

    const capacity = 2 * nodeAlone.rate + pythonAlone.rate
    for (const rate of [Math.ceil(0.8 * capacity), 2 * capacity]) {
      const { by, total } = await load.run(`all three at ${rate} tasks/s`, rate, 4)
      const share = (worker: Running): number => (by.get(worker.child.pid ?? 0) ?? 0) / total
      figure(
        `RabbitMQ: shares at ${rate} tasks/s (a Node worker ${nodeAlone.rate}/s alone, Python ${pythonAlone.rate}/s alone)`,
        `Node ${nodes.map((node) => percent(share(node))).join(' and ')}, Python ${percent(share(python))}; ` +
          `by capacity ${percent(nodeAlone.rate / capacity)} and ${percent(pythonAlone.rate / capacity)}`,
      )
      const parts = [
        ...nodes.map((worker) => ({ worker, alone: nodeAlone })),
        { worker: python, alone: pythonAlone },
      ]
      for (const { worker, alone } of parts) {
        expect(Math.abs(share(worker) - alone.rate / capacity)).toBeLessThan(0.2)
        expect(share(worker)).toBeGreaterThan(alone.rate / capacity / 2)
      }
    }
    await until(10, 'nothing held', async () => (await broker.held()) === 0)
    await both.stop()
    await broker.stop()
  })

  test('what a killed Python worker held runs at once in a Node worker', async () => {
    const broker = await startVhostBroker()
    const both = fleet(broker)
    const victim = await both.pythonWorker({ queues: 'held', args: threads(10) })
    const sent = Array.from({ length: 40 }, () => both.app.sendTask('node.work', [600], { queue: 'held' }))
    const ids = (await Promise.all(sent)).map(({ id }) => id)
    await until(30, 'the claim of all', async () => (await broker.held()) === ids.length)
    await both.ledger.until(30, 'ten that it runs', () => both.ledger.runs.length >= 10)
    await both.nodeWorker({ queues: 'held', args: ['-c', '40'] })
    const killed = Date.now()
    await victim.end('SIGKILL')
    const done = new Set(both.ledger.ended)
    await both.ledger.until(30, 'the end of all', () => ids.every((id) => both.ledger.ended.has(id)))
    const held = ids.filter((id) => !done.has(id))
    expect(held.length).toBeGreaterThan(0)
    const begins = held.map((id) => (both.ledger.runsOf(id).at(-1)?.began ?? 0) - killed)
    figure(`RabbitMQ: ${held.length} messages of a killed Python worker began elsewhere`, spread(begins))
    expect(Math.max(...begins)).toBeLessThan(1000 * (2 + BUSY))
    await until(10, 'nothing held', async () => (await broker.held()) === 0)
    await both.stop()
    await broker.stop()
  })
})

const percent = (part: number): string => `${Math.round(100 * part)} %`
