/** How fast programs send. */

import type { Bench, Sample } from '../support/contender.ts'
import {
  environmentFor,
  type Environment,
  resultOf,
  soon,
  startCommand,
  startOurs,
  startPeer,
  startPython,
  startWorker,
  stopWorker,
} from '../support/programs.ts'
import { checkRan, hasRun } from '../support/ran.ts'

export interface Producing {
  count: number
  /** So many under way at once. */
  inFlight?: number
  /** So many at once, the next when all of those are sent. */
  batch?: number
}

/** How much goes before, without being measured. */
const WARM = 0.1

function optionsOf({ count, inFlight = 1, batch = 0 }: Producing, bench: Bench) {
  const all = bench.size(count)
  return { warm: Math.ceil(all * WARM), count: all, 'in-flight': inFlight, batch }
}

interface Produced {
  seconds: number
  mainThread?: number | null
}

function sampleOf(count: number, { seconds, mainThread }: Produced): Sample {
  return { value: count / seconds, figures: { mainThread: mainThread ?? null } }
}

/** delay() of ours on Redis. */
export async function produceOurs(producing: Producing, bench: Bench): Promise<Sample> {
  await bench.redis.command('FLUSHALL')
  const env = environmentFor(bench.redis.url, bench.redis.url)
  const options = optionsOf(producing, bench)
  const found = await resultOf<Produced>(startOurs('produce', options, env))
  await runAll(env, options.warm + options.count, bench)
  return sampleOf(options.count, found)
}

/** delay() of Python's on Redis, one after the other, or with `batch` a group of so many. */
export async function producePython({ count, batch = 0 }: Producing, bench: Bench): Promise<Sample> {
  await bench.redis.command('FLUSHALL')
  const env = environmentFor(bench.redis.url, bench.redis.url)
  const { warm, count: all } = optionsOf({ count }, bench)
  const found = await resultOf<Produced>(startPython('produce', { warm, count: all, batch }, env))
  await runAll(env, warm + all, bench)
  return sampleOf(all, found)
}

/** Has a worker of ours run what is in the queue, and checks that it did. */
async function runAll(env: Environment, count: number, { numbers }: Bench): Promise<void> {
  const rest = { ...env, IGNORE_RESULT: '1', COUNT: String(count) }
  await using worker = startWorker('celeriac', rest)
  await soon('the end of the queue', worker, async () => {
    return (await numbers.ask('LLEN bench')) + (await numbers.ask('HLEN unacked')) === 0
  })
  await stopWorker(worker)
  checkRan(env.RAN, count)
}

/** add() of BullMQ, or with `batch` addBulk(). */
export async function produceBullmq(producing: Producing, bench: Bench): Promise<Sample> {
  await bench.redis.command('FLUSHALL')
  const env = environmentFor(bench.redis.url, null)
  const options = optionsOf(producing, bench)
  const found = await resultOf<Produced>(startPeer('bullmq-produce', options, env))
  const all = options.warm + options.count
  await using worker = startWorker('bullmq', { ...env, COUNT: String(all) })
  await soon('the last job', worker, () => hasRun(env.RAN, all))
  await stopWorker(worker)
  checkRan(env.RAN, all)
  return sampleOf(options.count, found)
}

/** LPUSH of the same bytes with ioredis. */
export async function produceIoredis(producing: Producing, bench: Bench): Promise<Sample> {
  await bench.redis.command('FLUSHALL')
  const env = { ...environmentFor(bench.redis.url, null), MESSAGE: bench.message }
  const { warm, count, 'in-flight': inFlight } = optionsOf(producing, bench)
  const program = startPeer('ioredis-produce', { warm, count, 'in-flight': inFlight }, env)
  const found = await resultOf<Produced>(program)
  await checkLength(warm + count, bench)
  return sampleOf(count, found)
}

/** LPUSH of the same bytes by redis-benchmark, over one connection, so many in a pipeline. */
export async function produceRedisBenchmark(
  { count, pipeline, text }: { count: number; pipeline: number; text: string },
  bench: Bench,
): Promise<Sample> {
  await bench.redis.command('FLUSHALL')
  const all = Math.ceil(bench.size(count) / pipeline) * pipeline
  const program = startCommand('redis-benchmark', [
    ...['-p', bench.redis.port, '-c', 1, '-P', pipeline, '-n', all, '--csv'],
    ...['LPUSH', 'bench', text],
  ])
  const { code, stdout, stderr } = await program.finished
  if (code !== 0) throw new Error(`redis-benchmark ended with ${code}:\n${stderr}`)
  await checkLength(all, bench)
  return { value: rateOf(stdout) }
}

/** The column `rps` of its table. */
function rateOf(csv: string): number {
  const [head = [], values = []] = csv
    .trim()
    .split('\n')
    .map((line) => line.split('","').map((cell) => cell.replaceAll('"', '')))
  const rate = Number(values[head.indexOf('rps')])
  if (!(rate > 0)) throw new Error(`redis-benchmark says no rate:\n${csv}`)
  return rate
}

async function checkLength(count: number, { numbers }: Bench): Promise<void> {
  const length = await numbers.ask('LLEN bench')
  if (length !== count) throw new Error(`${count} messages were sent, ${length} are there`)
}
