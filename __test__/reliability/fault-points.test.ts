/** A worker is killed at each instant of a delivery's life, on each broker; whoever comes next finishes everything. */

import { describe, expect, test } from 'vitest'
import {
  type RedisBroker,
  startRedisBroker,
  startSqliteBroker,
  startVhostBroker,
  type TestBroker,
} from '../support/brokers.ts'
import { diedAt, faultPointBinary, faultPoints, startDoomed } from '../support/fault-points.ts'
import { type Fleet, fleet, nodeTasks } from '../support/fleet.ts'
import { celeriac } from '../support/processes.ts'
import { Random } from '../support/random.ts'
import { DeadList } from '../support/reliability/dead-list.ts'
import { until } from '../support/wait.ts'

/** What a doomed worker is given to do, so that it comes to its point. */
type Work = 'backlog' | 'trickle' | 'held' | 'early' | 'left'

/** Backlogs have so many good messages; each has so many bad ones in its midst. */
const GOOD = 24
const BAD = 8

/** In how many parts the bad ones are buried at least, by who holds two at a time. */
const BURIALS = 4

/** How many workers are doomed at the same time on each broker: more of them only wait for a processor. */
const SIDE_BY_SIDE = 6

// Where begins are counted, a worker that dies again and again must not end a task.
const SETTINGS = { workerLease: 2, maxDeliveries: 1000 }

interface Case {
  point: string
  hit: number
  work: Work
  queue: string
}

const random = new Random()

/** The work that leads to a point, and how often it surely does. */
function workFor(point: string): [work: Work, hits: number] {
  if (point.startsWith('redis.wake.')) return ['trickle', 5]
  if (point.includes('.renew.')) return ['held', 3]
  if (point.startsWith('early_ack.')) return ['early', 5]
  if (point.includes('.restore.') || point.startsWith('amqp.begin.')) return ['left', 1]
  if (/^(redis|amqp)\.bury\./.test(point)) return ['backlog', BURIALS]
  return ['backlog', 5]
}

/** Those of this transport, and those that every worker comes to. */
function pointsOf(transport: string): readonly string[] {
  return ALL.filter(
    (point) =>
      (!/^(redis|sqlite|amqp)\./.test(point) || point.startsWith(`${transport}.`)) && !REPLAY.test(point),
  )
}

/** At the first hit as often as at a later one. */
function plan(points: readonly string[]): Case[] {
  return points.map((point) => {
    const [work, hits] = workFor(point)
    const hit = hits === 1 || random.between(0, 1) === 0 ? 1 : random.between(2, hits)
    return { point, hit, work, queue: work === 'left' ? 'left' : point }
  })
}

const ALL = faultPoints()
/** Those that no worker comes to. */
const REPLAY = /^amqp\.replay\./
const IN_PARTS = /^(publish|store)\./
const grounds = [
  {
    name: 'Redis with the results on the same server',
    start: () => startRedisBroker(),
    cases: plan(pointsOf('redis').filter((point) => !IN_PARTS.test(point))),
  },
  {
    name: 'Redis with the results on another server',
    start: () => startRedisBroker({ results: 'other' }),
    cases: plan(pointsOf('redis')),
  },
  {
    name: 'SQLite',
    start: () => startSqliteBroker(),
    cases: plan(pointsOf('sqlite')),
  },
  {
    name: 'RabbitMQ',
    start: () => startVhostBroker(),
    cases: plan(pointsOf('amqp')),
  },
]

test('every fault point of every broker and every worker has its turn', () => {
  const planned = new Set(grounds.flatMap(({ cases }) => cases.map(({ point }) => point)))
  expect([...planned].toSorted()).toEqual(ALL.filter((point) => !REPLAY.test(point)).toSorted())
})

/** What one broker went through, and what it owes. */
class Trial {
  readonly broker: TestBroker
  readonly nodes: Fleet
  /** Its own, since several go on at the same time. */
  readonly #random: Random
  readonly sent = new Set<string>()
  readonly early = new Map<string, string[]>()
  readonly bad: string[] = []

  constructor(broker: TestBroker, own: Random) {
    this.broker = broker
    this.#random = own
    this.nodes = fleet(broker, { node: SETTINGS })
  }

  /** The Redis server, where the broker is one. */
  get redis(): RedisBroker['server'] | undefined {
    return this.broker.name === 'Redis' ? (this.broker as RedisBroker).server : undefined
  }

  /** Sends tasks that each call another one when they are done; their ids. */
  async send(queue: string, count: number, milliseconds: (place: number) => number): Promise<string[]> {
    const { app } = this.nodes
    const results = Array.from({ length: count }, async (_, place) => {
      const taskId = crypto.randomUUID()
      const link = app.signature('node.write', {
        args: [`linked ${taskId}`],
        immutable: true,
        options: { queue },
      })
      return app.sendTask('node.work', [milliseconds(place)], { queue, link, taskId })
    })
    const ids = (await Promise.all(results)).map(({ id }) => id)
    for (const id of ids) this.sent.add(id)
    return ids
  }

  async sendEarly(queue: string): Promise<void> {
    const { app } = this.nodes
    const results = Array.from({ length: GOOD }, () => app.sendTask('node.early', [1], { queue }))
    this.early.set(
      queue,
      (await Promise.all(results)).map(({ id }) => id),
    )
  }

  doom({ point, hit, work, queue }: Case): ReturnType<typeof startDoomed> {
    const capacity = { backlog: '2', trickle: '2', held: '10', early: '1', left: '10' }[work]
    return startDoomed({
      point,
      hit,
      app: nodeTasks,
      args: ['-Q', queue, '-c', capacity, '--prefetch-multiplier', '1'],
      env: {
        CELERY_BROKER_URL: this.broker.url,
        CELERY_RESULT_BACKEND: this.broker.backend,
        SETTINGS: JSON.stringify(SETTINGS),
        LEDGER: this.nodes.ledger.path,
      },
    })
  }

  /** Everything that a case needs before its worker comes. */
  async prepare(cases: readonly Case[]): Promise<void> {
    const brief = (): number => this.#random.between(0, 20)
    for (const { work, queue } of cases) {
      if (work === 'backlog') await this.send(queue, GOOD / 2, brief)
      if (work === 'held') await this.send(queue, 10, () => 2500)
      if (work === 'early') await this.sendEarly(queue)
    }
    for (const { queue } of cases.filter(({ work }) => work === 'backlog')) {
      // The claiming script tells one half of them; of the other half, which looks like messages, only who reads them.
      const bad = Array.from({ length: BAD }, (_, place) =>
        place % 2 === 0 ? `not json ${queue} ${place}` : `{not json ${queue} ${place}}`,
      )
      await this.broker.push(queue, ...bad)
      this.bad.push(...bad)
      await this.send(queue, GOOD / 2, brief)
    }
  }

  /** Runs the worker of a case to its death. */
  async run(doomed: Case): Promise<void> {
    const worker = this.doom(doomed)
    if (doomed.work === 'trickle') await this.trickle(doomed, worker)
    await diedAt(doomed.point, worker)
  }

  /** One task after the other, each to a worker that waits. */
  private async trickle({ point, queue }: Case, worker: ReturnType<typeof startDoomed>): Promise<void> {
    const { ledger } = this.nodes
    await until(60, `a worker for ${queue}`, () => !worker.isRunning || worker.output.includes(' ready.'))
    // A busy worker claims what comes without being woken, so nobody knows how many it takes.
    const deadline = Date.now() + 60_000
    for (let place = 0; worker.isRunning && Date.now() < deadline; place++) {
      if (point === 'redis.wake.moved') await this.redis?.command('script', 'flush')
      const [id = ''] = await this.send(queue, 1, () => 0)
      await until(
        30,
        `a task of ${queue}`,
        () => !worker.isRunning || ledger.ended.has(id),
        () => `(task ${place}, ${id})\n${worker.output.slice(-4000)}`,
      )
    }
  }

  /** A worker is killed while it holds tasks; those of `cases` find what it left. */
  async leave(cases: readonly Case[]): Promise<void> {
    await this.send('left', 10, () => 300)
    const holder = await this.nodes.nodeWorker({ queues: 'left', args: ['-c', '10'] })
    await this.nodes.ledger.until(
      30,
      'tasks that are held',
      () => this.nodes.ledger.of(holder.child.pid).begun > 0,
    )
    await holder.end('SIGKILL')
    for (const doomed of cases) await this.run(doomed)
  }

  /** What is on the broker that should not be there any more. */
  async left(queues: readonly string[]): Promise<Record<string, unknown>> {
    const { broker } = this.nodes.app
    const lengths = await Promise.all(queues.map((queue) => broker.queueLength(queue)))
    const left: Record<string, unknown> = {
      held: await this.broker.held(),
      waiting: lengths.reduce((sum, length) => sum + length, 0),
    }
    if (this.redis !== undefined) {
      left['index'] = Number(await this.redis.command('zcard', 'unacked_index'))
      left['leases'] = Number(await this.redis.command('zcard', 'celeriac.leases'))
      // Queues, and what was moved for a consumer that did not come to claim it.
      left['lists'] = (await this.redis.command('--scan', '--type', 'list')).length
    }
    return left
  }
}

describe.concurrent('nothing is lost by a worker that dies at any point of a delivery', () => {
  for (const { name, start, cases } of grounds) {
    const own = random.branch()
    test(`on ${name}`, { timeout: 240_000 }, async () => {
      const trial = new Trial(await start(), own)
      const { nodes } = trial
      const { app, ledger } = nodes
      const waiting = cases.filter(({ work }) => work !== 'left')
      await trial.prepare(waiting)
      const rest = [...waiting]
      const lane = async (): Promise<void> => {
        for (let doomed = rest.shift(); doomed !== undefined; doomed = rest.shift()) await trial.run(doomed)
      }
      await Promise.all(Array.from({ length: SIDE_BY_SIDE }, lane))
      await trial.leave(cases.filter(({ work }) => work === 'left'))

      const queues = [...new Set(cases.map(({ queue }) => queue))]
      await nodes.nodeWorker({ queues: queues.join(','), args: ['-c', '20'] })

      // Every task, every result, everything that follows from them.
      const ids = [...trial.sent].toSorted()
      await until(60, `the end of ${ids.length} tasks`, () => {
        const { ended } = ledger
        return ids.every((id) => ended.has(id))
      })
      const results = await Promise.all(ids.map((id) => app.AsyncResult(id).get({ timeout: 30 })))
      expect(results.every((result) => result === null)).toBe(true)
      await until(30, 'what was linked', () => new Set(ledger.after('linked')).size >= ids.length)
      expect([...new Set(ledger.after('linked'))].toSorted()).toEqual(ids)

      // What is acknowledged before its body is lost with its worker: that, and nothing else. It never runs twice.
      let left: Record<string, unknown> = {}
      const isEmpty = async (): Promise<boolean> => {
        left = await trial.left(queues)
        return Object.values(left).every((count) => count === 0)
      }
      await until(30, 'an empty broker', isEmpty, () => JSON.stringify(left))
      for (const [queue, early] of trial.early) {
        const runs = early.map((id) => ledger.runsOf(id).length)
        const lost = runs.filter((count) => count === 0).length
        expect([queue, lost], 'tasks that never ran').toEqual([queue, queue === 'early_ack.after' ? 1 : 0])
        expect(Math.max(...runs), queue).toBe(1)
      }
      const known = new Set([...ids, ...[...trial.early.values()].flat()])
      expect(ledger.runs.filter(({ id }) => !known.has(id))).toEqual([])

      // Where a message is put into the dead list and acknowledged in two steps, a death between them keeps it twice.
      const dead = await new DeadList(app, trial.broker).read()
      const kept = dead.map(({ raw }) => raw.toString()).toSorted()
      const bad = trial.bad.map((raw) => trial.broker.asKept(Buffer.from(raw)).toString()).toSorted()
      const inTwoSteps = trial.broker.name === 'RabbitMQ'
      expect(inTwoSteps ? [...new Set(kept)] : kept).toEqual(bad)
      expect(kept.length).toBeLessThanOrEqual(bad.length + (inTwoSteps ? 2 * cases.length : 0))
      expect(new Set(dead.map(({ reason }) => reason))).toEqual(new Set(['malformed']))
      await nodes.stop()
      await trial.broker.stop()
    })
  }
})

describe('nothing is lost by a replay that dies', () => {
  test.each(ALL.filter((point) => REPLAY.test(point)))('at %s', async (point) => {
    const broker = await startVhostBroker()
    const nodes = fleet(broker)
    const bad = Array.from({ length: 10 }, (_, place) => `not json ${place}`)
    await broker.push('work', ...bad)
    const worker = await nodes.nodeWorker({ queues: 'work' })
    const letters = async (): Promise<string[]> =>
      (await new DeadList(nodes.app, broker).read()).map(({ raw }) => raw.toString()).toSorted()
    await until(30, 'every letter', async () => (await letters()).length === bad.length)
    await worker.end()
    const before = await letters()
    const replay = celeriac(['-A', nodeTasks, 'dead', 'replay', '--all'], {
      env: {
        CELERY_BROKER_URL: broker.url,
        CELERY_RESULT_BACKEND: broker.backend,
        LEDGER: nodes.ledger.path,
        NAPI_RS_NATIVE_LIBRARY_PATH: faultPointBinary(),
        FAILPOINTS: `${point}=return`,
      },
    })
    await diedAt(point, replay)
    // What was sent and not taken out of the list is in both.
    await until(30, 'every letter in its place', async () => (await letters()).length === bad.length)
    expect(await letters()).toEqual(before)
    expect(await broker.waiting('work')).toBe(point === 'amqp.replay.after' ? bad.length : 0)
    expect(await nodes.app.deadLetters.replay({})).toBe(bad.length)
    expect(await letters()).toEqual([])
  })
})
