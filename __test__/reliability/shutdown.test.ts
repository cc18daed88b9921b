import { describe, expect, test } from 'vitest'
import { brokers } from '../support/brokers.ts'
import { fleet, type Fleet } from '../support/fleet.ts'
import { feed } from '../support/killing.ts'
import type { Running } from '../support/processes.ts'
import { Random } from '../support/random.ts'
import { expectOnce } from '../support/reliability/expectations.ts'
import { figure, spread } from '../support/reliability/figures.ts'

const QUEUE = 'work'
const TIMES = 20

/**
 * Nothing may have to wait for a lease or for Python's visibility timeout: both are an hour, so that what a worker leaves
 * behind stays away for longer than the test.
 */
const SECONDS = 20

const start = (nodes: Fleet): Promise<Running> => nodes.nodeWorker({ queues: QUEUE, args: ['-c', '10'] })

/** Ends a worker by SIGTERM: by itself, in good order, with nothing left behind; gives how long it took. */
async function expectEnds(worker: Running): Promise<number> {
  const at = Date.now()
  const { code, signal } = await worker.end('SIGTERM', SECONDS)
  expect([code, signal]).toEqual([0, null])
  return Date.now() - at
}

for (const kind of brokers) {
  describe(`on ${kind.name}`, () => {
    test(`a worker is ended by SIGTERM ${TIMES} times under load, and every task runs once, without waiting for a timeout`, async () => {
      const random = new Random()
      const broker = await kind.start()
      const nodes = fleet(broker, { node: { workerLease: 3600 } })
      const load = { isOver: false }
      const alive = [await start(nodes), await start(nodes)]
      if (kind.has.python) await nodes.pythonWorker({ queues: QUEUE, args: ['-P', 'threads', '-c', '4'] })
      const milliseconds = (): number => random.between(0, 200)
      const feeding = feed(nodes, { queue: QUEUE, milliseconds, least: 0, isOver: () => load.isOver })
      const took: number[] = []
      for (let time = 0; time < TIMES; time++) {
        const place = random.between(0, 1)
        const worker = alive[place] as Running
        const began = random.between(1, 60)
        await nodes.ledger.until(30, `${began} tasks of the worker that is to end`, () => {
          const own = nodes.ledger.of(worker.child.pid)
          return own.begun >= began && own.running.length > 0
        })
        took.push(await expectEnds(worker))
        // What it ran it has ended, and it runs nothing more.
        expect(nodes.ledger.of(worker.child.pid).running).toEqual([])
        alive[place] = await start(nodes)
      }
      load.isOver = true
      const ids = await feeding
      await expectOnce(broker, nodes, QUEUE, ids, SECONDS)
      figure(`${kind.name}: from SIGTERM to the end of the process`, spread(took))
      figure(`${kind.name}: tasks, each run once`, ids.length)
      await nodes.stop()
      await broker.stop()
    })

    test('SIGTERM in the middle of a burst of claims leaves every task to be run once', async () => {
      const random = new Random()
      const broker = await kind.start()
      const nodes = fleet(broker, { node: { workerLease: 3600 } })
      const ids: string[] = []
      const send = async (count: number): Promise<void> => {
        const some = Array.from({ length: count }, () =>
          nodes.app.sendTask('node.work', [1], { queue: QUEUE }),
        )
        for (const { id } of await Promise.all(some)) ids.push(id)
      }
      for (let round = 0; round < 5; round++) {
        const worker = await nodes.nodeWorker({ queues: QUEUE, args: ['-c', '100'] })
        const target = nodes.ledger.runs.length + random.between(1, 300)
        const sending = send(1000)
        await nodes.ledger.until(30, `${target} runs`, () => nodes.ledger.runs.length >= target)
        await expectEnds(worker)
        await sending
      }
      await start(nodes)
      await expectOnce(broker, nodes, QUEUE, ids, SECONDS)
      await nodes.stop()
      await broker.stop()
    })
  })
}
