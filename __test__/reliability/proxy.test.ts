/** A bad network between a broker and everybody who uses it: it passes, and nothing is lost, stuck or late for ever. */

import { setTimeout as sleep } from 'node:timers/promises'
import type { Celery } from 'celeriac'
import { describe, expect, test } from 'vitest'
import {
  type RabbitMqBroker,
  type RedisBroker,
  startRedisBroker,
  startVhostBroker,
} from '../support/brokers.ts'
import { type Fleet, fleet } from '../support/fleet.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { Random } from '../support/random.ts'
import { until, within } from '../support/wait.ts'

/** A server that tells a worker from one that is gone within ten seconds. */
const SETTINGS = { workerLease: 3, brokerHeartbeat: 5 }

type Broker = RedisBroker | RabbitMqBroker
const places: { name: string; start: () => Promise<Broker> }[] = [
  { name: 'Redis', start: startRedisBroker },
  // Its results are on a Redis that is always there.
  { name: 'RabbitMQ', start: startVhostBroker },
]

const PUBLISH_TIMEOUT = 5

/** How long everything may take to be as before, once the network is, in seconds. */
const RESUMES = 10

/** What a promise may be late by because this machine is busy, in seconds. */
const BUSY = 5

/** How many callers call `delay()`, each as soon as its last call is settled. */
const CALLERS = 10

/** How many tasks may wait before the callers wait too, so that a worker that comes back can catch up. */
const MOST_WAITING = 2000

/** A producer and a worker on a broker through one proxy, and a stream of calls. */
class Stream {
  readonly nodes: Fleet
  readonly resolved: string[] = []
  readonly rejected: { code: string; seconds: number }[] = []
  readonly broker: Broker
  readonly proxy: TcpProxy
  #isOver = false
  #callers: Promise<void>[] = []

  constructor(broker: Broker, proxy: TcpProxy) {
    this.broker = broker
    this.proxy = proxy
    const at = (url: string): string => url.replace(`:${broker.server.port}`, `:${proxy.port}`)
    const through = { ...broker, url: at(broker.url), backend: at(broker.backend) }
    this.nodes = fleet(through, {
      node: SETTINGS,
      settings: { ...SETTINGS, publishTimeout: PUBLISH_TIMEOUT },
    })
  }

  get app(): Celery {
    return this.nodes.app
  }

  begin(): void {
    const work = this.app.task({ name: 'node.work', queue: 'node' }, (_milliseconds: number) => {})
    this.#callers = Array.from({ length: CALLERS }, async () => {
      while (!this.#isOver) {
        // oxlint-disable-next-line no-await-in-loop -- one after the other, as a caller does
        await until(120, 'room for more', () => this.#isOver || this.#waiting < MOST_WAITING)
        const start = performance.now()
        const call = work.delay(2)
        try {
          // oxlint-disable-next-line no-await-in-loop -- one after the other, as a caller does
          this.resolved.push((await within(PUBLISH_TIMEOUT + BUSY, 'the end of delay()', call)).id)
        } catch (error) {
          const { code = String(error) } = error as { code?: string }
          this.rejected.push({ code, seconds: (performance.now() - start) / 1000 })
        }
      }
    })
  }

  get #waiting(): number {
    return this.resolved.length - this.nodes.ledger.ended.size
  }

  async end(): Promise<void> {
    this.#isOver = true
    await Promise.all(this.#callers)
  }

  /** Calls are taken and tasks that were called after this end. */
  async flows(seconds: number): Promise<void> {
    const before = this.resolved.length
    await until(
      seconds,
      'the end of tasks that were called just now',
      () => {
        const { ended } = this.nodes.ledger
        return this.resolved.slice(before).filter((id) => ended.has(id)).length > CALLERS
      },
      () => `${this.resolved.length - before} calls were taken; ${JSON.stringify(this.rejected.slice(-3))}`,
    )
  }
}

interface Weather {
  what: string
  /** What happens while tasks are called. */
  storm(stream: Stream): Promise<void>
  /** Whether calls and tasks go on all the while. */
  passes?: boolean
  /** After how many seconds everything is as before; {@link RESUMES} unless nobody says when the network is well again. */
  resumes?: number
  /** The same for a result that is awaited. */
  awaits?: number
}

const random = new Random()

const weathers: Weather[] = [
  {
    what: '20 cuts at random moments',
    async storm({ proxy }) {
      let cut = 0
      for (let time = 0; time < 20; time++) {
        await sleep(random.between(0, 400))
        cut += await proxy.cut()
      }
      expect(cut).toBeGreaterThan(20)
    },
  },
  {
    what: 'half-open silence for 30 s',
    async storm({ proxy }) {
      await proxy.silence()
      await sleep(30_000)
      await proxy.normal()
    },
  },
  {
    what: 'connections that are never heard of again',
    // The answer to a command may take 10 s; a connection that only listens is tried every 25 s, and may take 10 s too.
    resumes: 10 + RESUMES,
    awaits: 35 + RESUMES,
    async storm({ proxy }) {
      expect(await proxy.strand()).toBeGreaterThan(2)
    },
  },
  {
    what: 'a delay of 50 ms in each direction',
    passes: true,
    async storm(stream) {
      await stream.proxy.delay(50)
      await stream.flows(30)
      await sleep(3000)
      await stream.flows(30)
      await stream.proxy.normal()
    },
  },
  {
    what: 'single bytes',
    passes: true,
    async storm(stream) {
      await stream.proxy.dribble()
      await stream.flows(30)
      await sleep(3000)
      await stream.flows(30)
      await stream.proxy.normal()
    },
  },
  {
    what: 'refused connections for 5 s',
    async storm({ proxy }) {
      await proxy.refuse()
      await proxy.cut()
      await sleep(5000)
      await proxy.normal()
    },
  },
]

describe.concurrent.each(places)('$name behind a network that has', ({ name, start }) => {
  for (const { what, storm, passes = false, resumes = RESUMES, awaits = RESUMES } of weathers) {
    test(`${what}: all goes on afterwards, and nothing is lost`, { timeout: 180_000 }, async () => {
      const broker = await start()
      const proxy = await startProxy(broker.server.port)
      const stream = new Stream(broker, proxy)
      const { app, nodes } = stream
      await nodes.nodeWorker({ args: ['-c', '20'] })
      stream.begin()
      await stream.flows(30)

      // Somebody waits for a result from before the storm to after it.
      const slow = await app.sendTask('node.work', [1000], { queue: 'node' })
      const awaited = slow.get({ timeout: 120 })
      awaited.catch(() => {})
      const { server } = broker
      if ('command' in server) {
        await until(10, 'somebody who listens for the result', async () =>
          (await server.command('pubsub', 'channels', '*')).includes(slow.id),
        )
      }
      await storm(stream)
      await stream.flows(resumes)
      expect(await within(awaits, 'the result that is awaited', awaited)).toBeNull()
      await stream.end()

      const ids = new Set([...stream.resolved, slow.id])
      await until(60, `the end of ${ids.size} tasks`, () => {
        const { ended } = nodes.ledger
        return [...ids].every((id) => ended.has(id))
      })
      // A call that failed may have been carried out all the same; nothing else may have.
      const strangers = new Set(nodes.ledger.runs.map(({ id }) => id).filter((id) => !ids.has(id)))
      expect(strangers.size).toBeLessThanOrEqual(stream.rejected.length)
      expect([...nodes.ledger.ended].filter((id) => !strangers.has(id)).toSorted()).toEqual(
        [...ids].toSorted(),
      )
      const codes = new Set(stream.rejected.map(({ code }) => code))
      const known = ['ERR_CELERIAC_PUBLISH_TIMEOUT', 'ERR_CELERIAC_BROKER_UNAVAILABLE']
      expect([...codes].filter((code) => passes || !known.includes(code))).toEqual([])

      const last = await app.sendTask('node.add', [1, 2], { queue: 'node' })
      expect(await last.get({ timeout: awaits })).toBe(3)
      let left: unknown
      await until(
        30,
        'an empty broker',
        async () => {
          const held = await broker.held()
          const waiting = await broker.waiting('node')
          left = { held, waiting }
          return held === 0 && waiting === 0
        },
        () => JSON.stringify(left),
      )
      console.log(
        `${name}, ${what}: ${stream.resolved.length} calls taken, ${stream.rejected.length} failed, ` +
          `${nodes.ledger.runs.length - nodes.ledger.ended.size} runs too many`,
      )
      await nodes.stop()
      await proxy.stop()
      await broker.stop()
    })
  }
})
