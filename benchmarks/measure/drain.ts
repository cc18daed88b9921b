/** How fast workers take what waits in a full queue. */

import type { Bench, Sample } from '../support/contender.ts'
import {
  environmentFor,
  resultOf,
  soon,
  startBare,
  startOurs,
  startPeer,
  startWorker,
  stopWorker,
  type WorkerKind,
} from '../support/programs.ts'
import { checkRan, hasRun, type Ran } from '../support/ran.ts'

export interface Draining {
  count: number
  /** Without it, as by default: results are stored. */
  ignoreResult?: boolean
  /** Without it, as by default: ours late, Python's early. */
  acksLate?: boolean
  /** Without it, as by default: 4 for each task at once. */
  prefetchMultiplier?: number
}

const SENDING = 1000

/** From the first task's body until its last message is acknowledged and its last result stored. */
export async function drain(
  kind: Exclude<WorkerKind, 'bullmq'>,
  draining: Draining,
  { redis, numbers, size }: Bench,
): Promise<Sample> {
  await redis.command('FLUSHALL')
  const count = size(draining.count)
  const env = { ...environmentFor(redis.url, redis.url), ...settingsOf(draining), COUNT: String(count) }
  await resultOf(startOurs('produce', { count, 'in-flight': SENDING }, env))
  const keys = await numbers.ask('DBSIZE')
  await using worker = startWorker(kind, env)
  await soon('the last task', worker, async () => {
    if ((await numbers.ask('LLEN bench')) + (await numbers.ask('HLEN unacked')) > 0) return false
    // What is acknowledged early may still wait for its turn.
    if (!hasRun(env.RAN, count)) return false
    if (draining.ignoreResult === true) return true
    // Every result is a key; the queue is none once it is empty. Other keys of a worker's come and go.
    return (await numbers.ask('DBSIZE')) >= keys + count - 1
  })
  const end = Date.now()
  await stopWorker(worker)
  return sampleOf(count, checkRan(env.RAN, count), end)
}

function settingsOf({ ignoreResult, acksLate, prefetchMultiplier }: Draining): Record<string, string> {
  const settings: Record<string, string> = {}
  if (ignoreResult !== undefined) settings['IGNORE_RESULT'] = ignoreResult ? '1' : '0'
  if (acksLate !== undefined) settings['ACKS_LATE'] = acksLate ? '1' : '0'
  if (prefetchMultiplier !== undefined) settings['PREFETCH'] = String(prefetchMultiplier)
  return settings
}

function sampleOf(count: number, { firstAt, mainThread }: Ran, end: number): Sample {
  return {
    value: count / ((end - firstAt) / 1000),
    figures: { mainThread: mainThread === null ? null : mainThread / count },
  }
}

/** BullMQ's worker, from the first job until the last is completed; jobs are kept, or with `ignoreResult` removed. */
export async function drainBullmq(draining: Draining, { redis, size }: Bench): Promise<Sample> {
  await redis.command('FLUSHALL')
  const count = size(draining.count)
  const env = { ...environmentFor(redis.url, null), COUNT: String(count) }
  const forget = draining.ignoreResult === true ? 1 : 0
  await resultOf(startPeer('bullmq-produce', { count, batch: SENDING, forget }, env))
  await using worker = startWorker('bullmq', env)
  await soon('the last job', worker, () => hasRun(env.RAN, count))
  await stopWorker(worker)
  const ran = checkRan(env.RAN, count)
  return sampleOf(count, ran, ran.lastAt)
}

/** The same steps by a program in Rust that does nothing else, so many messages at once. */
export async function drainBare(
  { count, ignoreResult = false }: Draining,
  { batch, together = false }: { batch: number; together?: boolean },
  { redis, message, size }: Bench,
): Promise<Sample> {
  await redis.command('FLUSHALL')
  const all = size(count)
  const results = ignoreResult ? 'ignored' : 'stored'
  const args = [redis.url, all, batch, message, results, ...(together ? ['together'] : [])]
  const { seconds } = await resultOf(startBare('bare_redis', args))
  return { value: all / seconds }
}
