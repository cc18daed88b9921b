/** How long one task takes from the call to its result in hand, while nothing else is under way. */

import type { Bench, Sample } from '../support/contender.ts'
import {
  environmentFor,
  resultOf,
  startOurs,
  startPeer,
  startPython,
  startWorker,
  stopWorker,
  type WorkerKind,
} from '../support/programs.ts'
import { checkRan } from '../support/ran.ts'

const COUNT = 1500
const WARM = 100

interface RoundTrips {
  seconds: number
  p50: number
  p99: number
}

/** The caller and the worker are two processes; the value is the median in milliseconds. */
export async function roundTrips(kind: WorkerKind, { redis, size }: Bench): Promise<Sample> {
  await redis.command('FLUSHALL')
  const options = { warm: WARM, count: size(COUNT) }
  const env = environmentFor(redis.url, redis.url)
  await using worker = startWorker(kind, env)
  const program = {
    celeriac: () => startOurs('round-trips', options, env),
    bullmq: () => startPeer('bullmq-round-trips', options, env),
  }[kind as 'celeriac' | 'bullmq']
  const { p50, p99 } = await resultOf<RoundTrips>(
    program === undefined ? startPython('round_trips', options, env) : program(),
  )
  await stopWorker(worker)
  checkRan(env.RAN, options.warm + options.count)
  return { value: p50, figures: { p99 } }
}
