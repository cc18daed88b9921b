import { describe, expect, test } from 'vitest'
import { type BrokerKind, brokers } from '../support/brokers.ts'
import { fleet, type Fleet } from '../support/fleet.ts'
import { type Death, feed, idsThatEnded, kill, killAgainAndAgain, recoveries } from '../support/killing.ts'
import { Random } from '../support/random.ts'
import { expectEmpty } from '../support/reliability/expectations.ts'
import { figure, spread } from '../support/reliability/figures.ts'

/** Seconds. */
const LEASE = 2
/** Seconds that a test machine with other things to do may add to what is promised. */
const ALLOWANCE = 0.5
const QUEUE = 'work'
/** Fewer where nothing waits for a lease, so that the kills follow each other faster. */
const loads: Readonly<Record<string, { kills: number; least: number }>> = {
  RabbitMQ: { kills: 20, least: 5000 },
}

const settings = (kind: BrokerKind, visibilityTimeout: number) => ({
  node: { ...kind.lease(LEASE), brokerTransportOptions: kind.impatience(visibilityTimeout) },
  python: { broker_transport_options: kind.impatience(visibilityTimeout) },
})

const startNode = (nodes: Fleet) => (node: string) =>
  nodes.nodeWorker({ queues: QUEUE, args: ['-c', '10', '-n', node] })

/** Every one is there and no other, and none is missing in the result backend. */
async function expectAll(nodes: Fleet, ids: readonly string[]): Promise<void> {
  const ended = await idsThatEnded(nodes, ids, 60)
  expect(ended.toSorted()).toEqual(ids.toSorted())
  for (let first = 0; first < ids.length; first += 500) {
    const some = ids.slice(first, first + 500).map((id) => nodes.app.AsyncResult(id).get({ timeout: 60 }))
    expect(new Set(await Promise.all(some))).toEqual(new Set([null]))
  }
}

/** Whatever they held is begun elsewhere within that many seconds. */
function expectRecovered(kind: BrokerKind, nodes: Fleet, deaths: readonly Death[], seconds: number): void {
  const times = recoveries(nodes.ledger, deaths)
  figure(`${kind.name}: what ${deaths.length} killed workers held began elsewhere`, spread(times))
  expect(times.length).toBeGreaterThan(0)
  expect(times.filter((milliseconds) => milliseconds > 1000 * (seconds + ALLOWANCE))).toEqual([])
}

for (const kind of brokers) {
  const { kills, least } = loads[kind.name] ?? { kills: 50, least: 20_000 }
  describe(`on ${kind.name}`, () => {
    test(`of two Node workers one is killed ${kills} times, each time while it runs tasks, and nothing is lost`, async () => {
      const random = new Random()
      const broker = await kind.start()
      // So long that Python restores nothing before our leases bring it back.
      const nodes = fleet(broker, settings(kind, 60))
      const others = kind.has.pythonRecovers
        ? [await nodes.pythonWorker({ queues: QUEUE, args: ['-P', 'threads', '-c', '10'] })]
        : []

      const killing = { isOver: false }
      const over = killAgainAndAgain(random, nodes, {
        times: kills,
        count: 2,
        start: startNode(nodes),
        claimed: broker.heldBy,
      })
      const feeding = feed(nodes, {
        queue: QUEUE,
        milliseconds: () => 20,
        least,
        isOver: () => killing.isOver,
      })
      const { deaths } = await over.finally(() => (killing.isOver = true))
      const ids = await feeding

      await expectAll(nodes, ids)
      expect(deaths.every(({ running }) => running > 0)).toBe(true)
      expectRecovered(kind, nodes, deaths, kind.recovers(LEASE) + 2)
      for (const other of others) expect(nodes.ledger.of(other.child.pid).begun).toBeGreaterThan(100)
      const again = nodes.ledger.runs.length - ids.length
      const running = deaths.reduce((sum, death) => sum + death.running, 0)
      figure(
        `${kind.name}: tasks, runs more than that, runs cut off by kills`,
        `${ids.length}, ${again}, ${running}`,
      )
      await expectEmpty(broker, [QUEUE])
      await nodes.stop()
      await broker.stop()
    })
  })
}

for (const kind of brokers.filter(({ has }) => has.pythonRecovers)) {
  describe(`on ${kind.name}`, () => {
    test('when every Node worker is killed at once, a Python worker recovers what they held', async () => {
      const broker = await kind.start()
      const visibilityTimeout = 5
      const both = fleet(broker, settings(kind, visibilityTimeout))
      const start = startNode(both)
      const names = ['one@test', 'two@test']
      const workers = await Promise.all(names.map(start))
      await both.pythonWorker({ queues: QUEUE, args: ['-P', 'threads', '-c', '10'] })
      const feeding = { isOver: false }
      const sent = feed(both, {
        queue: QUEUE,
        milliseconds: () => 20,
        least: 0,
        isOver: () => feeding.isOver,
      })
      await both.ledger.until(60, '200 tasks of each worker, and some that it runs', () => {
        const own = workers.map((worker) => both.ledger.of(worker.child.pid))
        return own.every(({ begun, running }) => begun >= 200 && running.length > 0)
      })
      const deaths = await Promise.all(
        workers.map((worker, place) =>
          kill(both, worker, async () => (await broker.heldBy?.(names[place] ?? '')) ?? []),
        ),
      )
      expect(deaths.every(({ held }) => held.length > 0)).toBe(true)
      feeding.isOver = true
      const ids = await sent
      await expectAll(both, ids)
      expectRecovered(kind, both, deaths, kind.recovers(LEASE + visibilityTimeout) + 2)
      await expectEmpty(broker, [QUEUE])
      await both.stop()
      await broker.stop()
    })
  })
}
