/** How soon a new process has sent its first task. */

import type { Running } from '../../__test__/support/processes.ts'
import type { Bench, Sample } from '../support/contender.ts'
import {
  environmentFor,
  type Environment,
  soon,
  startCommand,
  startOurs,
  startPeer,
  startPython,
  startWorker,
  stopWorker,
} from '../support/programs.ts'
import { checkRan } from '../support/ran.ts'
import { summarize } from '../support/rates.ts'
import { python } from '../../__test__/support/processes.ts'

const STARTS = 7

/** The median of several, in milliseconds from spawn to the line `sent`. */
async function starts(program: (number: number) => Running): Promise<Sample> {
  const found: number[] = []
  for (let number = 0; number < STARTS; number += 1) {
    const begin = performance.now()
    await using running = program(number)
    await running.says('sent')
    found.push(performance.now() - begin)
    const { code } = await running.finished
    if (code !== 0) throw new Error(`a program ended with ${code}:\n${running.output}`)
  }
  return { value: summarize(found).median }
}

/** A process that sends nothing: what no library can be faster than. */
export const startBareNode = (): Promise<Sample> =>
  starts(() => startCommand(process.execPath, ['-e', 'console.log("sent")']))

export const startBarePython = (): Promise<Sample> =>
  starts(() => startCommand(python(), ['-c', 'print("sent", flush=True)']))

export async function firstSend(kind: 'celeriac' | 'python' | 'bullmq', bench: Bench): Promise<Sample> {
  await bench.redis.command('FLUSHALL')
  const env = environmentFor(bench.redis.url, bench.redis.url)
  const program = {
    celeriac: (from: number) => startOurs('first-send', { from }, env),
    python: (from: number) => startPython('first_send', { from }, env),
    bullmq: (from: number) => startPeer('bullmq-first-send', { from }, env),
  }[kind]
  const found = await starts(program)
  await runAll(kind === 'bullmq' ? 'bullmq' : 'celeriac', env, bench)
  return found
}

async function runAll(kind: 'celeriac' | 'bullmq', env: Environment, { numbers }: Bench): Promise<void> {
  await using worker = startWorker(kind, { ...env, COUNT: String(STARTS) })
  const left = ['LLEN bench', 'HLEN unacked', 'LLEN bull:bench:wait', 'LLEN bull:bench:active']
  await soon('the end of the queue', worker, async () => {
    let sum = 0
    for (const command of left) sum += await numbers.ask(command)
    return sum === 0
  })
  await stopWorker(worker)
  checkRan(env.RAN, STARTS)
}

export async function firstSendIoredis(bench: Bench): Promise<Sample> {
  await bench.redis.command('FLUSHALL')
  const env = environmentFor(bench.redis.url, null)
  const found = await starts(() => startPeer('ioredis-first-send', {}, env))
  const length = await bench.numbers.ask('LLEN bench')
  if (length !== STARTS) throw new Error(`${STARTS} messages were sent, ${length} are there`)
  return found
}
