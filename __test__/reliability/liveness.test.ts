import { describe, expect, test } from 'vitest'
import { type BrokerKind, brokers, type TestBroker } from '../support/brokers.ts'
import { fleet, type Fleet } from '../support/fleet.ts'
import { idsThatEnded } from '../support/killing.ts'
import type { Running } from '../support/processes.ts'
import { BUSY, expectEmpty } from '../support/reliability/expectations.ts'
import { figure, spread } from '../support/reliability/figures.ts'
import { until } from '../support/wait.ts'

const QUEUE = 'work'

/** Seconds within which what a stuck worker has not begun can be begun elsewhere. */
const FREED_WITHIN = 15
/** Seconds for which a stuck worker is watched: with a lease of 2 s it has had many occasions to claim. */
const WATCHED = 8

interface Scene {
  broker: TestBroker
  nodes: Fleet
  /** Its event loop is blocked for good. */
  stuck: Running
  /** When that began. */
  since: number
  /** The endless loop. */
  loop: string
  /** Runs beside it, and cannot go on. */
  beside: string
  /** Held, and not begun. */
  held: string[]
  /** Wait behind those. */
  others: string[]
}

/** A worker that runs two tasks at once, one of them an endless loop, and holds six more. */
async function stuckWorker(kind: BrokerKind, leaseMaxHold: number | null): Promise<Scene> {
  const broker = await kind.start()
  const nodes = fleet(broker, { node: { workerLease: 2, leaseMaxHold } })
  const send = async (task: string, ...args: unknown[]): Promise<string> =>
    (await nodes.app.sendTask(task, args, { queue: QUEUE })).id
  // All before it is there: of a shallow queue a worker claims only what it can begin, and once its event loop is blocked nothing.
  const beside = await send('node.work', 3000)
  const loop = await send('node.loop')
  const others: string[] = []
  for (let count = 0; count < 40; count++) others.push(await send('node.work', 10))
  const held = others.splice(0, 6)
  const stuck = await nodes.nodeWorker({ queues: QUEUE, args: ['-c', '2'] })
  await nodes.ledger.until(30, 'the endless loop', () => nodes.ledger.runsOf(loop).length === 1)
  const since = nodes.ledger.runsOf(loop)[0]?.began ?? 0
  await until(10, 'all of them held', async () => (await broker.held()) === 8)
  expect(await broker.waiting(QUEUE)).toBe(others.length)
  expect(nodes.ledger.runs.map(({ id }) => id)).toEqual([beside, loop])
  return { broker, nodes, stuck, since, loop, beside, held, others }
}

async function end({ broker, nodes }: Scene): Promise<void> {
  await nodes.stop()
  await broker.stop()
}

/** Waits until these tasks ran, each once, on `worker`; gives how long each had to wait for that. */
async function expectRunBy({ nodes, since }: Scene, worker: Running, ids: string[]): Promise<number[]> {
  await idsThatEnded(nodes, ids, 45)
  const runs = ids.flatMap((id) => nodes.ledger.runsOf(id))
  expect(runs.map(({ id }) => id)).toEqual(ids)
  expect(new Set(runs.map(({ process }) => process))).toEqual(new Set([worker.child.pid]))
  return runs.map(({ began }) => began - since)
}

/** From the beginning of the endless loop to that elsewhere, in milliseconds. */
function expectFreed(kind: BrokerKind, what: string, times: readonly number[]): void {
  figure(`${kind.name}: ${what} began elsewhere`, spread(times))
  expect(Math.max(...times)).toBeLessThan(1000 * (FREED_WITHIN + BUSY))
}

for (const kind of brokers) {
  describe(`on ${kind.name}`, () => {
    test('what a worker with a blocked event loop holds and has not begun runs elsewhere, and it claims no more', async () => {
      const scene = await stuckWorker(kind, null)
      const { broker, nodes, held, others, loop, beside } = scene
      await until(
        FREED_WITHIN + BUSY,
        'everything not begun in its queue',
        async () => (await broker.waiting(QUEUE)) === held.length + others.length,
      )
      figure(
        `${kind.name}: what was not begun beside an endless loop was free`,
        spread([Date.now() - scene.since]),
      )
      // Nobody else is there, and still it does not take them.
      const more = await Promise.all(
        Array.from({ length: 20 }, () => nodes.app.sendTask('node.work', [10], { queue: QUEUE })),
      )
      const sent = held.length + others.length + more.length
      const watched = performance.now()
      const counts = new Set<number>()
      await until(WATCHED + BUSY, 'the end of the watch', async () => {
        counts.add(await broker.waiting(QUEUE))
        return performance.now() - watched > 1000 * WATCHED
      })
      expect([...counts]).toEqual([sent])
      const healthy = await nodes.nodeWorker({ queues: QUEUE, args: ['-c', '2'] })
      await expectRunBy(scene, healthy, [...held, ...others, ...more.map(({ id }) => id)])
      // What it runs stays with it: nobody can tell whether it will end.
      await until(10, 'two held', async () => (await broker.held()) === 2)
      expect([loop, beside].map((id) => nodes.ledger.runsOf(id).length)).toEqual([1, 1])
      await end(scene)
    })

    test('tasks that were handed over together with an endless loop, and did not begin, run elsewhere too', async () => {
      const broker = await kind.start()
      const nodes = fleet(broker, { node: { workerLease: 2 } })
      const send = async (task: string, ...args: unknown[]): Promise<string> =>
        (await nodes.app.sendTask(task, args, { queue: QUEUE })).id
      const loop = await send('node.loop')
      const others = await Promise.all(Array.from({ length: 9 }, () => send('node.work', 10)))
      await nodes.nodeWorker({ queues: QUEUE, args: ['-c', '10'] })
      await nodes.ledger.until(30, 'the endless loop', () => nodes.ledger.runsOf(loop).length === 1)
      const begun = new Set(nodes.ledger.runs.map(({ id }) => id))
      const healthy = await nodes.nodeWorker({ queues: QUEUE })
      const held = others.filter((id) => !begun.has(id))
      expect(held.length).toBeGreaterThan(0)
      await idsThatEnded(nodes, held, 45)
      const runs = held.flatMap((id) => nodes.ledger.runsOf(id))
      expect(runs.map(({ process }) => process)).toEqual(held.map(() => healthy.child.pid))
      const since = nodes.ledger.runsOf(loop)[0]?.began ?? 0
      expectFreed(
        kind,
        'what was handed over together with an endless loop',
        runs.map(({ began }) => began - since),
      )
      await nodes.stop()
      await broker.stop()
    })

    test('without leaseMaxHold a worker with a blocked event loop says so in its log', async () => {
      const scene = await stuckWorker(kind, null)
      await scene.stuck.says(/event loop is blocked/, 45)
      expect(scene.stuck.output).toMatch(/ERROR.*JavaScript has been silent/)
      await end(scene)
    })

    test('leaseMaxHold frees what a worker with a blocked event loop runs', async () => {
      const scene = await stuckWorker(kind, 14)
      const { broker, nodes, held, loop, beside } = scene
      const healthy = await nodes.nodeWorker({ queues: QUEUE, args: ['-c', '2'] })
      expectFreed(kind, 'what was not begun', await expectRunBy(scene, healthy, held))
      await idsThatEnded(nodes, [loop, beside], 60)
      const times = [loop, beside].map((id) => {
        const [first, second, ...more] = nodes.ledger.runsOf(id)
        expect([first?.ended, second?.process, more]).toEqual([undefined, healthy.child.pid, []])
        return (second?.began ?? 0) - scene.since
      })
      figure(`${kind.name}: with leaseMaxHold of 14 s what ran began elsewhere`, spread(times))
      expect(Math.min(...times)).toBeGreaterThan(12_000)
      await expectEmpty(broker, [QUEUE])
      await end(scene)
    })
  })
}
