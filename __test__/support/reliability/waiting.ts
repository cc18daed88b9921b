/** What workers that wait on RabbitMQ cost, and how soon they have a message. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Celery, type CeleryOptions } from 'celeriac'
import { FrameCounter } from '../frames.ts'
import { leashed, own } from '../servers.ts'
import { within } from '../wait.ts'

/** How many workers wait on how many queues, each of four priorities. */
export interface Waiting {
  readonly workers: number
  readonly queues: number
}

/** What was seen. */
export interface WaitingFigures extends Waiting {
  /** Connections of each worker. */
  readonly connections: number
  /** Seconds for which nothing came. */
  readonly idleSeconds: number
  /** What the workers sent in that time, by kind. */
  readonly idle: ReadonlyMap<string, number>
  /** The same of what they got. */
  readonly idleGot: ReadonlyMap<string, number>
  /** At some messages a second: what was sent and got by message, and how long it took until its body began, in µs. */
  readonly rates: readonly {
    readonly rate: number
    readonly sent: ReadonlyMap<string, number>
    readonly got: ReadonlyMap<string, number>
    readonly messages: number
    readonly p50: number
    readonly p99: number
  }[]
}

const PRIORITIES = [0, 3, 6, 9]
const jiti = join(import.meta.dirname, '..', '..', '..', 'node_modules', '.bin', 'jiti')
const program = join(import.meta.dirname, '..', 'apps', 'idle-workers.ts')

/** Starts workers on the RabbitMQ at `url`, counts while nothing comes, and sends messages at these rates. */
export async function measureWaiting(
  url: string,
  { workers, queues: count }: Waiting,
  { idleSeconds, rates }: { idleSeconds: number; rates: readonly { rate: number; messages: number }[] },
): Promise<WaitingFigures> {
  const queues = Array.from({ length: count }, (_, place) => `waiting-${workers}-${count}-${place}`)
  const common: CeleryOptions = { taskQueueMaxPriority: 9, taskIgnoreResult: true, brokerHeartbeat: 4 }
  const counter = await FrameCounter.start(Number(new URL(url).port))
  const relayed = new URL(url)
  relayed.port = String(counter.port)
  const app = new Celery('sender', { broker: url, publishTimeout: 60, ...common })
  const counted = await startWorkers(workers, queues, { broker: String(relayed), ...common })
  const direct: Idle[] = []
  try {
    // What belongs to the start has passed.
    await pause(1000)
    const connections = counter.connections / workers
    counter.reset()
    await pause(1000 * idleSeconds)
    const [idle, idleGot] = [new Map(counter.sent), new Map(counter.got)]
    const seen: { sent: Map<string, number>; got: Map<string, number> }[] = []
    for (const { rate, messages } of rates) {
      counter.reset()
      await send(app, queues, rate, messages)
      await counted.all(messages)
      await pause(500)
      seen.push({ sent: new Map(counter.sent), got: new Map(counter.got) })
    }
    await counted.stop()
    // The relay has no part in how long it takes.
    direct.push(await startWorkers(workers, queues, { broker: url, ...common }))
    const took: number[][] = []
    for (const { rate, messages } of rates) {
      await send(app, queues, rate, messages)
      took.push(((await direct[0]?.all(messages)) ?? []).toSorted((a, b) => a - b))
    }
    return {
      workers,
      queues: count,
      connections,
      idleSeconds,
      idle,
      idleGot,
      rates: rates.map(({ rate, messages }, place) => ({
        rate,
        messages,
        sent: seen[place]?.sent ?? new Map(),
        got: seen[place]?.got ?? new Map(),
        p50: took[place]?.[messages >> 1] ?? 0,
        p99: took[place]?.[Math.floor(messages * 0.99)] ?? 0,
      })),
    }
  } finally {
    await counted.stop()
    for (const one of direct) await one.stop()
    await app.close()
    await counter.stop()
  }
}

/** Evenly over all queues and priorities. */
async function send(app: Celery, queues: readonly string[], rate: number, messages: number): Promise<void> {
  const began = performance.now()
  const sending: Promise<unknown>[] = []
  while (sending.length < messages) {
    const due = Math.min(messages, ((performance.now() - began) / 1000) * rate)
    while (sending.length < due) {
      const place = sending.length
      const priority = PRIORITIES[Math.floor(place / queues.length) % PRIORITIES.length] ?? 0
      const now = Number(process.hrtime.bigint() / 1000n)
      sending.push(app.sendTask('idle.note', [now], { queue: queues[place % queues.length] ?? '', priority }))
    }
    await pause(1)
  }
  await Promise.all(sending)
}

interface Idle {
  /** Waits until that many messages were run; how long each took. */
  all(messages: number): Promise<number[]>
  stop(): Promise<void>
}

async function startWorkers(
  count: number,
  queues: readonly string[],
  settings: CeleryOptions,
): Promise<Idle> {
  const command = leashed(process.execPath, [
    jiti,
    program,
    String(count),
    queues.join(','),
    JSON.stringify(settings),
  ])
  const child = own(spawn(...command, { stdio: ['pipe', 'pipe', 'inherit'] }))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const next = async (): Promise<string> =>
    String((await within(90, 'a line of the workers', lines.next())).value)
  while ((await next()) !== 'ready');
  return {
    async all(messages) {
      const took: number[] = []
      for (const end = performance.now() + 60_000; took.length < messages; await pause(20)) {
        if (performance.now() > end) throw new Error(`${took.length} of ${messages} messages ran`)
        child.stdin.write('\n')
        took.push(...(JSON.parse(await next()) as number[]))
      }
      return took
    },
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const end = once(child, 'exit')
      child.kill('SIGKILL')
      await end
    },
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds))
}

/** By message, with two places. */
export function each(counts: ReadonlyMap<string, number>, name: string, messages: number): string {
  return ((counts.get(name) ?? 0) / messages).toFixed(2)
}
