/** What tasks cost that a worker has taken and that are not due. */

import type { Bench, Sample } from '../support/contender.ts'
import { settledMemory } from '../support/memory.ts'
import {
  environmentFor,
  resultOf,
  soon,
  startOurs,
  startWorker,
  stopWorker,
  type WorkerKind,
} from '../support/programs.ts'
import { checkRan, hasRun } from '../support/ran.ts'

const COUNT = 50_000
/** Run before, so that everything is there that a worker needs. */
const WARM = 200
const SENDING = 1000
const AN_HOUR = 3600

/** The resident memory that each takes, in bytes, after the worker has taken all of them. */
export async function hold(
  kind: Exclude<WorkerKind, 'bullmq'>,
  { redis, numbers, size }: Bench,
): Promise<Sample> {
  await redis.command('FLUSHALL')
  const count = size(COUNT)
  const env = { ...environmentFor(redis.url, redis.url), COUNT: String(WARM) }
  await resultOf(startOurs('produce', { count: WARM, 'in-flight': SENDING }, env))
  await using worker = startWorker(kind, env)
  const pid = worker.child.pid
  if (pid === undefined) throw new Error('the worker did not start')
  await soon('the first tasks', worker, () => hasRun(env.RAN, WARM))
  const idle = await settledMemory(pid)
  const later = { count, from: WARM, 'in-flight': SENDING, countdown: AN_HOUR }
  const begin = performance.now()
  await resultOf(startOurs('produce', later, env))
  await soon('the last task to hold', worker, async () => (await numbers.ask('HLEN unacked')) === count)
  const takenIn = (performance.now() - begin) / 1000
  const holding = await settledMemory(pid)
  if (kind === 'celeriac') {
    await stopWorker(worker)
    checkRan(env.RAN, WARM)
  } else {
    // Python takes minutes to hand back so many.
    await worker.end('SIGKILL')
  }
  const left = (await numbers.ask('LLEN bench')) + (await numbers.ask('HLEN unacked'))
  if (left !== count) throw new Error(`of ${count} tasks that are not due ${left} are left`)
  return { value: ((holding - idle) * 1024) / count, figures: { takenIn } }
}
