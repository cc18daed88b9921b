/** How much memory a worker has. */

import type { Bench, Sample } from '../support/contender.ts'
import { residentMemory, settledMemory } from '../support/memory.ts'
import {
  environmentFor,
  type Environment,
  resultOf,
  soon,
  startCommand,
  startOurs,
  startPeer,
  startWorker,
  stopWorker,
  type WorkerKind,
} from '../support/programs.ts'
import { checkRan, hasRun } from '../support/ran.ts'

const SENDING = 1000

/** In MiB, of all processes of a worker: idle after its first task, and at the end of `count` others. */
export async function workerMemory(kind: WorkerKind, count: number, bench: Bench): Promise<Sample> {
  await bench.redis.command('FLUSHALL')
  const all = 1 + bench.size(count)
  const env = { ...environmentFor(bench.redis.url, bench.redis.url), COUNT: String(all) }
  await using worker = startWorker(kind, env)
  const pid = worker.child.pid
  if (pid === undefined) throw new Error('the worker did not start')
  await send(kind, { from: 0, count: 1 }, env)
  await soon('the first task', worker, async () => (await waiting(bench)) === 0)
  const idle = await settledMemory(pid)
  await send(kind, { from: 1, count: all - 1 }, env)
  await soon('the last task', worker, () => hasRun(env.RAN, all))
  const loaded = residentMemory(pid)
  await soon('the end of the queue', worker, async () => (await waiting(bench)) === 0)
  await stopWorker(worker)
  checkRan(env.RAN, all)
  return { value: idle / 1024, figures: { loaded: loaded / 1024 } }
}

async function send(
  kind: WorkerKind,
  range: { from: number; count: number },
  env: Environment,
): Promise<void> {
  const program =
    kind === 'bullmq'
      ? startPeer('bullmq-produce', { ...range, batch: SENDING }, env)
      : startOurs('produce', { ...range, 'in-flight': SENDING }, env)
  await resultOf(program)
}

async function waiting({ numbers }: Bench): Promise<number> {
  let sum = 0
  for (const command of ['LLEN bench', 'HLEN unacked', 'LLEN bull:bench:wait', 'LLEN bull:bench:active'])
    sum += await numbers.ask(command)
  return sum
}

/** A Node that does nothing. */
export async function bareNodeMemory(): Promise<Sample> {
  await using program = startCommand(process.execPath, ['-e', 'setInterval(() => {}, 1e6)'])
  const pid = program.child.pid
  if (pid === undefined) throw new Error('node did not start')
  return { value: (await settledMemory(pid)) / 1024 }
}
