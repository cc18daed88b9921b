import { once } from 'node:events'
import { createConnection } from 'node:net'
import { describe, expect, test } from 'vitest'
import { afterTest } from '../support/after-test.ts'
import {
  type RabbitMqBroker,
  type RedisBroker,
  startRedisBroker,
  startVhostBroker,
} from '../support/brokers.ts'
import { fleet, type Fleet } from '../support/fleet.ts'
import { idsThatEnded } from '../support/killing.ts'
import { expectEmpty } from '../support/reliability/expectations.ts'
import { figure, median, spread } from '../support/reliability/figures.ts'
import { until } from '../support/wait.ts'

/** How long a worker may take to begin a task after the server is back; what it takes is printed. */
const RESUMES_WITHIN = 15
/** The same as a rule: the median of a test. */
const RESUMES_USUALLY_WITHIN = 3

/** Twenty producers that await each `delay()` before the next, until they are stopped. */
class Producers {
  /** Of the tasks that the broker has taken responsibility for. */
  readonly ids: string[] = []
  /** What `delay()` rejected with. */
  readonly errors: unknown[] = []
  readonly #loops: Promise<void>[]
  #isOver = false

  constructor(nodes: Fleet) {
    const work = nodes.app.task({ name: 'node.work', queue: 'work' }, (_milliseconds: number) => {})
    this.#loops = Array.from({ length: 20 }, async () => {
      while (!this.#isOver) {
        try {
          const { id } = await work.delay(1)
          this.ids.push(id)
        } catch (error) {
          this.errors.push(error)
        }
      }
    })
  }

  async stop(): Promise<void> {
    this.#isOver = true
    await Promise.all(this.#loops)
  }
}

interface Place<Broker> {
  start: () => Promise<Broker>
  /** What a client says to the server, and what one that is there answers. */
  greeting: string
  answers: string
}

const redis: Place<RedisBroker> = {
  start: () => startRedisBroker({ persistent: true }),
  greeting: 'PING\r\n',
  answers: '+PONG',
}

const rabbitMq: Place<RabbitMqBroker> = {
  start: startVhostBroker,
  greeting: 'AMQP\x00\x00\x09\x01',
  answers: '\x01',
}

/** Producers and a worker under load, and what happens to the server meanwhile; none of the tasks is lost. */
async function expectSurvival<Broker extends RedisBroker | RabbitMqBroker>(
  { start, greeting, answers }: Place<Broker>,
  times: number,
  happens: (broker: Broker) => Promise<void>,
  what: string,
): Promise<void> {
  const broker = await start()
  const nodes = fleet(broker, { settings: { publishTimeout: 60 } })
  const worker = await nodes.nodeWorker({ queues: 'work', settings: { workerLease: 2 } })
  const producers = new Producers(nodes)
  // Before the client is closed, which would let each call fail at once, and the next one.
  afterTest(() => producers.stop())
  const pauses: number[] = []
  for (let time = 0; time < times; time++) {
    const before = [producers.ids.length, nodes.ledger.ended.size] as const
    await nodes.ledger.until(60, 'load before it', () => {
      return producers.ids.length > before[0] + 200 && nodes.ledger.ended.size > before[1] + 200
    })
    await happens(broker)
    const answered = await answer(broker.server.port, greeting, answers)
    const sent = producers.ids.length
    // Not one that the worker held already: the first that was sent since.
    const first = (): number | undefined => {
      const begins = producers.ids
        .slice(sent)
        .flatMap((id) => nodes.ledger.runsOf(id).map(({ began }) => began))
      return begins.length === 0 ? undefined : Math.min(...begins)
    }
    await nodes.ledger.until(RESUMES_WITHIN, `a task sent after ${what}`, () => first() !== undefined)
    pauses.push(Math.max(0, (first() ?? Infinity) - answered))
  }
  const after = producers.ids.length
  await nodes.ledger.until(60, 'delay() after the last time', () => producers.ids.length > after + 200)
  await producers.stop()
  expect(producers.errors).toEqual([])

  const { ids } = producers
  const ended = await idsThatEnded(nodes, ids, 60)
  expect(ended.toSorted()).toEqual(ids.toSorted())
  const results = await Promise.all(ids.map((id) => nodes.app.AsyncResult(id).get({ timeout: 30 })))
  expect(results.filter((result) => result !== null)).toEqual([])
  figure(
    `${broker.name}: from the server's first answer after ${what} to the first task sent after it`,
    `${spread(pauses)}: ${pauses.join(', ')} ms; ${ids.length} tasks, ${nodes.ledger.runs.length - ids.length} runs more`,
  )
  expect(median(pauses)).toBeLessThanOrEqual(1000 * RESUMES_USUALLY_WITHIN)
  expect(worker.isRunning).toBe(true)
  await expectEmpty(broker, ['work'], 10)
  await nodes.stop()
  await broker.stop()
}

/** When the server answers so to a greeting, in milliseconds since 1970. */
async function answer(port: number, greeting: string, answers: string): Promise<number> {
  for (;;) {
    const socket = createConnection(port, '127.0.0.1')
    try {
      await once(socket, 'connect')
      socket.write(greeting)
      const [data] = (await once(socket, 'data')) as [Buffer]
      if (data.toString('latin1').startsWith(answers)) return Date.now()
    } catch {
      // It is not there yet.
    } finally {
      socket.destroy()
    }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

describe('Redis under load loses no task that delay() has confirmed, and work goes on by itself', () => {
  test('when it is killed and started again 5 times', { timeout: 600_000 }, async () => {
    await expectSurvival(
      redis,
      5,
      async (broker) => {
        await broker.server.kill()
        await broker.server.start()
      },
      'a kill',
    )
  })

  test('when it is stopped and started again', async () => {
    await expectSurvival(
      redis,
      2,
      async (broker) => {
        await broker.server.stop()
        await broker.server.start()
      },
      'a stop',
    )
  })

  test('when it forgets its scripts', async () => {
    await expectSurvival(
      redis,
      3,
      async ({ server }) => void (await server.command('script', 'flush')),
      'SCRIPT FLUSH',
    )
  })

  test('when it closes every connection', async () => {
    await expectSurvival(
      redis,
      3,
      async ({ server }) => void (await server.command('client', 'kill', 'type', 'normal')),
      'CLIENT KILL',
    )
  })

  test('when it hangs for 3 s', async () => {
    await expectSurvival(
      redis,
      2,
      async ({ server }) => {
        const pid = Number(/process_id:(\d+)/.exec(await server.command('info', 'server'))?.[1])
        process.kill(pid, 'SIGSTOP')
        await new Promise((resolve) => setTimeout(resolve, 3000))
        process.kill(pid, 'SIGCONT')
      },
      'a hang',
    )
  })

  test('when it has no memory left for a while', async () => {
    await expectSurvival(
      redis,
      2,
      async ({ server }) => {
        await server.command('config', 'set', 'maxmemory', '1')
        // Long enough for publishes and settlements to be refused.
        await new Promise((resolve) => setTimeout(resolve, 1500))
        await server.command('config', 'set', 'maxmemory', '0')
      },
      'a lack of memory',
    )
  })
})

describe('RabbitMQ under load loses no task that delay() has confirmed, and work goes on by itself', () => {
  test('when it is killed and started again 5 times', { timeout: 600_000 }, async () => {
    await expectSurvival(
      rabbitMq,
      5,
      async ({ server }) => {
        await server.kill()
        await server.start()
      },
      'a kill',
    )
  })

  test('when it is stopped and started again', async () => {
    await expectSurvival(
      rabbitMq,
      2,
      async ({ server }) => {
        await server.ctl('stop_app')
        await server.ctl('start_app')
      },
      'a stop',
    )
  })

  test('when it closes every connection', async () => {
    await expectSurvival(
      rabbitMq,
      3,
      async ({ server, connections }) => {
        const before = await connections()
        expect(before.size).toBeGreaterThan(1)
        await server.ctl('close_all_connections', '--global', 'for a test')
        const ports = async (): Promise<number[]> => [...(await connections()).keys()]
        await until(10, 'an end of each', async () => !(await ports()).some((port) => before.has(port)))
      },
      'close_all_connections',
    )
  })

  test('when it hangs for 3 s', async () => {
    await expectSurvival(
      rabbitMq,
      2,
      async ({ server }) => {
        process.kill(server.processId, 'SIGSTOP')
        await new Promise((resolve) => setTimeout(resolve, 3000))
        process.kill(server.processId, 'SIGCONT')
      },
      'a hang',
    )
  })

  test('when it has no memory left for a while', async () => {
    await expectSurvival(
      rabbitMq,
      2,
      async ({ server }) => {
        await server.ctl('set_vm_memory_high_watermark', '0.000001')
        await until(30, 'an alarm', async () =>
          (await server.ctl('eval', 'rabbit_alarm:get_alarms().')).includes('memory'),
        )
        // Long enough for publishes to be blocked.
        await new Promise((resolve) => setTimeout(resolve, 1500))
        await server.ctl('set_vm_memory_high_watermark', 'absolute', '4GB')
      },
      'a lack of memory',
    )
  })
})
