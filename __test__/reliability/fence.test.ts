import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { type BrokerKind, brokers, type TestBroker } from '../support/brokers.ts'
import { fleet, type Fleet } from '../support/fleet.ts'
import { idsThatEnded } from '../support/killing.ts'
import type { Running } from '../support/processes.ts'
import { expectEmpty } from '../support/reliability/expectations.ts'
import { until } from '../support/wait.ts'

/** Seconds. */
const LEASE = 2

interface Scene {
  broker: TestBroker
  nodes: Fleet
  /** Holds the tasks, and stands still. */
  zombie: Running
  ids: string[]
}

/** A worker that holds tasks, of which it runs as many as it can at once, and stands still. */
async function zombieWith(
  kind: BrokerKind,
  { results, tasks, atOnce, milliseconds, lease = LEASE, leaves }: ZombieOptions,
): Promise<Scene> {
  const broker = await kind.start({ results })
  const nodes = fleet(broker, {
    node: { ...kind.lease(lease), brokerTransportOptions: kind.impatience(1) },
    python: { broker_transport_options: kind.impatience(1) },
  })
  const ids = Array.from({ length: tasks }, () => randomUUID())
  for (const taskId of ids) {
    const link = nodes.app.signature('node.follow', { args: [taskId], options: { queue: 'follow' } })
    const [task, args] = leaves === undefined ? ['node.where', []] : ['node.leave', [leaves]]
    await nodes.app.sendTask(task, [milliseconds, ...args], { queue: 'work', taskId, link })
  }
  const zombie = await nodes.nodeWorker({ queues: 'work,mine', args: ['-c', String(atOnce)] })
  await nodes.ledger.until(30, 'the tasks', () => nodes.ledger.runs.length === atOnce)
  // A worker holds four for each that it runs; of a shallow queue it claims only what it can begin.
  const held = Math.min(tasks, 4 * atOnce)
  await until(10, `${held} tasks held`, async () => (await broker.held()) === held)
  zombie.pause()
  return { broker, nodes, zombie, ids }
}

interface ZombieOptions {
  results: 'same' | 'other'
  tasks: number
  atOnce: number
  /** How long each task takes. */
  milliseconds: number
  /** Seconds. */
  lease?: number
  /** How the zombie's bodies end. Default: they return. */
  leaves?: 'reject' | 'retry'
}

const LOST = /Task ([0-9a-f-]{36}) was taken over by another worker/g

/** Waits until a worker has logged that it lost these tasks, in one line for each. */
async function saysLost(worker: Running, ids: readonly string[]): Promise<void> {
  const lost = (): string[] => [...worker.output.matchAll(LOST)].map(([, id = '']) => id)
  await until(
    30,
    `${ids.length} lines about lost tasks`,
    () => lost().length >= ids.length,
    () => worker.output.slice(-2000),
  )
  expect(lost().toSorted()).toEqual(ids.toSorted())
}

/** For each task the result document's value (the process that stored it) and time. */
function documents({ nodes, ids }: Scene): Promise<[process: unknown, at: number | undefined][]> {
  return Promise.all(
    ids.map(async (id): Promise<[unknown, number | undefined]> => {
      const result = nodes.app.AsyncResult(id)
      return [await result.get({ timeout: 60 }), (await result.dateDone())?.getTime()]
    }),
  )
}

/** A task that only the zombie can take, so that all that it had taken before has been seen to. */
async function afterwards({ nodes, zombie }: Scene): Promise<void> {
  const { id } = await nodes.app.sendTask('node.work', [0], { queue: 'mine' })
  await idsThatEnded(nodes, [id], 30)
  expect(nodes.ledger.runsOf(id).map(({ process }) => process)).toEqual([zombie.child.pid])
}

/** Result and link of each task come from `taker` alone. */
async function expectAllFrom(scene: Scene, taker: Running): Promise<void> {
  const { broker, nodes, ids } = scene
  const { pid } = taker.child
  await nodes.ledger.until(30, 'what follows', () => nodes.ledger.after('follow').length >= ids.length)
  await expectEmpty(broker, ['work', 'follow', 'mine'])
  expect(nodes.ledger.after('follow').toSorted()).toEqual(ids.map((id) => `${id} ${pid}`).toSorted())
  expect((await documents(scene)).map(([process]) => process)).toEqual(ids.map(() => pid))
}

/** Result and link of each task come from `taker` alone, also when the zombie goes on and tries to settle them. Ends the scene. */
async function expectUnchanged(scene: Scene, taker: Running): Promise<void> {
  const { zombie, ids } = scene
  await expectAllFrom(scene, taker)
  const before = await documents(scene)
  zombie.resume()
  await saysLost(zombie, ids)
  await afterwards(scene)
  await expectAllFrom(scene, taker)
  expect(await documents(scene)).toEqual(before)
  await end(scene)
}

async function end({ broker, nodes }: Scene): Promise<void> {
  await nodes.stop()
  await broker.stop()
}

for (const kind of brokers) {
  for (const results of kind.has.oneStep ? (['same', 'other'] as const) : (['other'] as const)) {
    const place = results === 'same' ? 'the broker’s server' : 'another server'
    describe(`on ${kind.name}, with results on ${place}`, () => {
      test('a worker that was stopped for longer than its lease settles nothing of what another runs now', async () => {
        // A lease so long that the other one still runs them long after the zombie has ended them.
        const times = { lease: 4, milliseconds: 8000 }
        const scene = await zombieWith(kind, { results, tasks: 10, atOnce: 10, ...times })
        const { broker, nodes, zombie, ids } = scene
        const taker = await nodes.nodeWorker({ queues: 'work,follow', args: ['-c', '20'] })
        await nodes.ledger.until(30, 'all of them taken over', () => {
          return nodes.ledger.of(taker.child.pid).begun === ids.length
        })
        zombie.resume()
        await saysLost(zombie, ids)
        // The other one still runs them: it holds them, and they have no result.
        expect(await broker.held()).toBe(ids.length)
        const states = await Promise.all(ids.map((id) => nodes.app.AsyncResult(id).state()))
        expect(states).toEqual(ids.map(() => 'PENDING'))
        const first = nodes.ledger.runs.filter((run) => run.ended !== undefined)
        expect(first.map(({ process }) => process)).toEqual(ids.map(() => zombie.child.pid))
        await expectAllFrom(scene, taker)
        await afterwards(scene)
        await end(scene)
      })

      test('a worker that was stopped until another had ended its tasks changes nothing of what that one stored', async () => {
        const scene = await zombieWith(kind, { results, tasks: 10, atOnce: 10, milliseconds: 2000 })
        const taker = await scene.nodes.nodeWorker({ queues: 'work,follow' })
        await expectUnchanged(scene, taker)
      })

      for (const leaves of ['reject', 'retry'] as const) {
        const what = leaves === 'reject' ? 'reject' : 'retry themselves'
        test(`the tasks that it lost and that ${what} there are neither published again nor given up`, async () => {
          const scene = await zombieWith(kind, { results, tasks: 5, atOnce: 5, milliseconds: 2000, leaves })
          const { nodes, zombie, ids } = scene
          const taker = await nodes.nodeWorker({ queues: 'work,follow' })
          await expectAllFrom(scene, taker)
          zombie.resume()
          await saysLost(zombie, ids)
          await afterwards(scene)
          await expectAllFrom(scene, taker)
          const both = [zombie, taker].map(({ child }) => child.pid)
          for (const id of ids) expect(nodes.ledger.runsOf(id).map(({ process }) => process)).toEqual(both)
          expect(await nodes.app.broker.deadCount()).toBe(0)
          await end(scene)
        })
      }

      test('what it had not begun when it lost it, it does not begin', async () => {
        const scene = await zombieWith(kind, { results, tasks: 40, atOnce: 2, milliseconds: 1000 })
        const { nodes, zombie } = scene
        const taker = await nodes.nodeWorker({ queues: 'work,follow' })
        await expectAllFrom(scene, taker)
        const before = await documents(scene)
        zombie.resume()
        await afterwards(scene)
        const begun = nodes.ledger.runs.filter(({ process }) => process === zombie.child.pid)
        expect(begun).toHaveLength(2 + 1)
        await expectAllFrom(scene, taker)
        expect(await documents(scene)).toEqual(before)
        await end(scene)
      })
    })
  }
}

for (const kind of brokers.filter(({ has }) => has.pythonRecovers)) {
  describe(`on ${kind.name}, beside Python`, () => {
    test('a worker that was stopped until a Python worker had ended its tasks changes nothing of what that one stored', async () => {
      // Shorter than Python's visibility timeout, or it would run its own tasks twice.
      const scene = await zombieWith(kind, { results: 'same', tasks: 10, atOnce: 10, milliseconds: 500 })
      const { nodes, ids } = scene
      const taker = await nodes.pythonWorker({ queues: 'work', args: ['-P', 'threads', '-c', '10'] })
      await idsThatEnded(nodes, ids, 60)
      await nodes.nodeWorker({ queues: 'follow' })
      await expectUnchanged(scene, taker)
    })
  })
}
