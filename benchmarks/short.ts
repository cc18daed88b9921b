// Three measurements, each beside its target; README.md says how they are made.
//
//   npm run bench:short                  prints a table and writes benchmarks/results/short.json
//   npm run bench:short -- --check       and fails when a target is missed
//   npm run bench:short -- --rounds 1    so many rounds (default 3)

import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { type RedisServer, startRedis, temporaryFolder } from '../__test__/support/servers.ts'
import { until } from '../__test__/support/wait.ts'
import {
  environmentFor,
  PATIENCE,
  PYTHON_POOLS,
  resultOf,
  startOurs,
  startPython,
  startWorker,
  stopWorker,
} from './support/programs.ts'
import { checkRan } from './support/ran.ts'
import { describe, type Rates, summarize } from './support/rates.ts'
import { RedisNumbers } from './support/redis.ts'

/** How many tasks each gets: enough for a second or so. */
const TASKS = {
  produce: 100_000,
  produceInPython: 3000,
  drain: 40_000,
  drainInPython: 3000,
  embedded: 20_000,
}
const IN_FLIGHT = 1000

/** Ours, and the pools of Python's. */
const WORKERS = ['celeriac', ...PYTHON_POOLS] as const
type WorkerKind = (typeof WORKERS)[number]

/** A Redis of ours alone, and a connection to ask it for numbers. */
interface Redis {
  server: RedisServer
  numbers: RedisNumbers
}

/** Calls of delay() per second on Redis. A worker of ours runs the tasks afterwards. */
async function produce(side: 'celeriac' | 'python', { server, numbers }: Redis): Promise<number> {
  await server.command('FLUSHALL')
  const env = environmentFor(server.url, server.url)
  const count = side === 'celeriac' ? TASKS.produce : TASKS.produceInPython
  const warm = count / 10
  const program =
    side === 'celeriac'
      ? startOurs('produce', { warm, count, 'in-flight': IN_FLIGHT }, env)
      : startPython('produce', { warm, count }, env)
  const { seconds } = await resultOf(program)
  await using worker = startWorker('celeriac', env)
  await until(PATIENCE, 'the end of the queue', async () => {
    return (await numbers.ask('LLEN bench')) + (await numbers.ask('HLEN unacked')) === 0
  })
  await stopWorker(worker)
  checkRan(env.RAN, warm + count)
  return count / seconds
}

/** Tasks per second that a worker takes from a full queue, from its first task to the last stored result. */
async function drain(kind: WorkerKind, { server, numbers }: Redis): Promise<number> {
  await server.command('FLUSHALL')
  const env = environmentFor(server.url, server.url)
  const count = kind === 'celeriac' ? TASKS.drain : TASKS.drainInPython
  await resultOf(startOurs('produce', { count, 'in-flight': IN_FLIGHT }, env))
  const before = await numbers.ask('DBSIZE')
  await using worker = startWorker(kind, env)
  // Every result is a key; the queue is none once it is empty. Other keys of a worker's come and go.
  await until(PATIENCE, 'the last result', async () => {
    const left = (await numbers.ask('LLEN bench')) + (await numbers.ask('HLEN unacked'))
    return left === 0 && (await numbers.ask('DBSIZE')) >= before + count - 1
  })
  const end = Date.now()
  await stopWorker(worker)
  const { firstAt } = checkRan(env.RAN, count)
  return count / ((end - firstAt) / 1000)
}

/** Tasks per second, from delay() to the result, between two processes on a SQLite file. */
async function embedded(): Promise<number> {
  const file = join(temporaryFolder(), 'celeriac.db')
  const env = environmentFor(`sqla+sqlite:///${file}`, `db+sqlite:///${file}`)
  await using worker = startWorker('celeriac', env)
  const warm = TASKS.embedded / 10
  const options = { warm, count: TASKS.embedded, 'in-flight': IN_FLIGHT }
  const { seconds } = await resultOf(startOurs('round-trips', options, env))
  await stopWorker(worker)
  checkRan(env.RAN, warm + TASKS.embedded)
  return TASKS.embedded / seconds
}

/** Every contender once a round, so that what else the machine does meets all of them. */
async function measure(redis: Redis, rounds: number): Promise<(name: string) => Rates> {
  const contenders: Record<string, () => Promise<number>> = {
    'produce celeriac': () => produce('celeriac', redis),
    'produce python': () => produce('python', redis),
    ...Object.fromEntries(WORKERS.map((kind) => [`drain ${kind}`, () => drain(kind, redis)])),
    embedded,
  }
  const found = new Map(Object.keys(contenders).map((name) => [name, [] as number[]]))
  for (let round = 1; round <= rounds; round += 1) {
    for (const [name, run] of Object.entries(contenders)) {
      const rate = await run()
      found.get(name)?.push(rate)
      console.log(
        `round ${round} of ${rounds}  ${name.padEnd(18)}${Math.round(rate).toLocaleString('en').padStart(9)}/s`,
      )
    }
  }
  return (name) => summarize(found.get(name) ?? [])
}

/** One row of the table. */
interface Row {
  name: string
  celeriac: Rates
  /** Python's program, the best of them. */
  peer?: { name: string } & Rates
  /** The target, a number of times the peer, or a rate where there is none. */
  target: number
  reached: number
}

function rowsOf(rates: (name: string) => Rates): Row[] {
  const against = (name: string, celeriac: Rates, peers: Record<string, Rates>, target: number): Row => {
    const [best] = Object.entries(peers).toSorted(([, a], [, b]) => b.median - a.median)
    if (best === undefined) throw new Error(`${name} has no peer`)
    const peer = { name: best[0], ...best[1] }
    return { name, celeriac, peer, target, reached: celeriac.median / peer.median }
  }
  const pools = WORKERS.filter((kind) => kind !== 'celeriac').map((kind) => [kind, rates(`drain ${kind}`)])
  const file = rates('embedded')
  return [
    against('delay() on Redis', rates('produce celeriac'), { python: rates('produce python') }, 60),
    against('a queue on Redis drained', rates('drain celeriac'), Object.fromEntries(pools), 15),
    { name: 'delay() to result on SQLite', celeriac: file, target: 5000, reached: file.median },
  ]
}

function table(rows: readonly Row[]): string {
  const text = new Table({
    head: ['per second: median (least–most)', 'celeriac', 'Python Celery', 'reached', 'target', ''],
    style: { head: [], border: [] },
  })
  for (const { name, celeriac, peer, target, reached } of rows) {
    const unit = (number: number): string =>
      peer === undefined ? `${Math.round(number).toLocaleString('en')}/s` : `${number.toFixed(0)} ×`
    text.push([
      name,
      describe(celeriac),
      peer === undefined ? '–' : `${peer.name}: ${describe(peer)}`,
      unit(reached),
      `≥ ${unit(target)}`,
      reached >= target ? '✓' : '✗',
    ])
  }
  return text.toString()
}

const { values: options } = parseArgs({
  options: { check: { type: 'boolean' }, rounds: { type: 'string', default: '3' } },
})
const server = await startRedis()
const numbers = await RedisNumbers.connect(server.port)
const rates = await measure({ server, numbers }, Number(options.rounds))
numbers.close()
await server.stop()

const rows = rowsOf(rates)
console.log(table(rows))
const pools = Object.fromEntries(WORKERS.map((kind) => [kind, rates(`drain ${kind}`)]))
const machine = { processors: cpus().length, model: cpus()[0]?.model, node: process.version }
const results = join(import.meta.dirname, 'results')
mkdirSync(results, { recursive: true })
writeFileSync(join(results, 'short.json'), `${JSON.stringify({ machine, rows, pools }, undefined, 2)}\n`)
if (options.check === true && rows.some(({ reached, target }) => reached < target)) process.exitCode = 1
