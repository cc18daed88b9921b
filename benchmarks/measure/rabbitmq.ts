/** Sending and working on RabbitMQ. Every measurement has a queue of its own. */

import type { Bench, Sample } from '../support/contender.ts'
import {
  environmentFor,
  type Environment,
  resultOf,
  soon,
  startBare,
  startOurs,
  startPython,
  startWorker,
  stopWorker,
  type WorkerKind,
} from '../support/programs.ts'
import { checkRan, hasRun, type Ran } from '../support/ran.ts'

type Side = 'celeriac' | 'python'

const SENDING = 1000
let queues = 0

async function environment(bench: Bench): Promise<Environment> {
  const { url } = await bench.rabbitmq()
  queues += 1
  return { ...environmentFor(url, null), QUEUE: `bench${queues}`, RABBITMQ: '1', IGNORE_RESULT: '1' }
}

async function send(side: Side, { warm, count, inFlight }: Record<string, number>, env: Environment) {
  const options = { warm: warm ?? 0, count: count ?? 0 }
  const program =
    side === 'celeriac'
      ? startOurs('produce', { ...options, 'in-flight': inFlight ?? SENDING }, env)
      : startPython('produce', options, env)
  return resultOf<{ seconds: number; mainThread?: number | null }>(program)
}

async function work(kind: Exclude<WorkerKind, 'bullmq'>, count: number, env: Environment) {
  await using worker = startWorker(kind, { ...env, COUNT: String(count) })
  await soon('the last task', worker, () => hasRun(env.RAN, count))
  await stopWorker(worker)
  return checkRan(env.RAN, count)
}

/** Calls of delay() per second, each confirmed by the broker; a worker runs the tasks afterwards. */
export async function produceOnRabbit(
  side: Side,
  { count, inFlight = 1 }: { count: number; inFlight?: number },
  bench: Bench,
): Promise<Sample> {
  const env = await environment(bench)
  const all = bench.size(count)
  const warm = Math.ceil(all / 10)
  const { seconds, mainThread } = await send(side, { warm, count: all, inFlight }, env)
  await work(side === 'celeriac' ? 'celeriac' : 'solo', warm + all, env)
  return { value: all / seconds, figures: { mainThread: mainThread ?? null } }
}

/** Tasks per second from a full queue, from the first body to the last; results are ignored. */
export async function drainRabbit(
  kind: Exclude<WorkerKind, 'bullmq'>,
  { count, prefetchMultiplier }: { count: number; prefetchMultiplier?: number },
  bench: Bench,
): Promise<Sample> {
  const prefetch = prefetchMultiplier === undefined ? {} : { PREFETCH: String(prefetchMultiplier) }
  const env = { ...(await environment(bench)), ...prefetch }
  const all = bench.size(count)
  await send(kind === 'celeriac' ? 'celeriac' : 'python', { count: all }, env)
  const ran = await work(kind, all, env)
  const { mainThread } = ran
  return {
    value: rateOf(all, ran),
    figures: { mainThread: mainThread === null ? null : mainThread / all },
  }
}

/** Python's worker may pause before its last messages (see programs/tasks.py): its rate is that of the first nine tenths. */
function rateOf(count: number, { firstAt, lastAt, began }: Ran): number {
  const most = Math.floor(began.length * 0.9)
  const at = began[most]
  return at === undefined ? count / ((lastAt - firstAt) / 1000) : most / ((at - firstAt) / 1000)
}

/** Lapin alone: confirmed publishing with so many under way, or consuming with as many unacknowledged. */
export async function bareRabbit(
  mode: 'publish' | 'consume',
  { count, window }: { count: number; window: number },
  bench: Bench,
): Promise<Sample> {
  const { url } = await bench.rabbitmq()
  const all = bench.size(count)
  const { seconds } = await resultOf(startBare('bare_rabbitmq', [mode, url, all, window, bench.message]))
  return { value: all / seconds }
}
