/** What `npm run bench` measures, and of whom: a contender more is a line more. */

import { native } from '../lib/native.ts'
import { drain, drainBare, drainBullmq, type Draining } from './measure/drain.ts'
import { embeddedRoundTrips, embeddedTasks } from './measure/embedded.ts'
import { hold } from './measure/hold.ts'
import { bareNodeMemory, workerMemory } from './measure/memory.ts'
import {
  produceBullmq,
  produceIoredis,
  produceOurs,
  producePython,
  produceRedisBenchmark,
} from './measure/produce.ts'
import { bareRabbit, drainRabbit, produceOnRabbit } from './measure/rabbitmq.ts'
import { roundTrips } from './measure/round-trips.ts'
import { firstSend, firstSendIoredis, startBareNode, startBarePython } from './measure/start.ts'
import type { Contender, Measurement } from './support/contender.ts'
import { type PythonPool, PYTHON_POOLS } from './support/programs.ts'

/** How many tasks each gets: enough for a second or more, or what Python does in a few. */
const SENT = { one: 40_000, many: 150_000, bullmq: 15_000, bullmqBulk: 30_000, python: 3000, raw: 384_000 }
const DRAINED = { celeriac: 60_000, python: 3000, bullmq: 20_000 }
const RABBIT = { celeriac: 30_000, python: 2000 }
const EMBEDDED = { roundTrips: 20_000, tasks: 40_000 }
const LOADED = { celeriac: 30_000, python: 1500 }
const IN_FLIGHT = 1000
const PIPELINE = 128
/** The largest that makes the bare program faster. */
const BARE_BATCH = 256

const PYTHON: Readonly<Record<PythonPool, string>> = {
  prefork: 'Python Celery, prefork',
  threads: 'Python Celery, threads',
  solo: 'Python Celery, solo',
}

/** Rows for each pool of Python's. */
function pools(run: (pool: PythonPool) => Contender['run']): Contender[] {
  return PYTHON_POOLS.map((pool) => ({ name: pool, label: PYTHON[pool], run: run(pool) }))
}

const celeriac = (run: Contender['run'], label = 'celeriac'): Contender => ({ name: 'celeriac', label, run })

/** The rows of ours on a broker, once the core knows its scheme. */
function where(scheme: string, ...rows: Contender[]): Contender[] {
  return native().brokerSchemes().includes(scheme) ? rows : []
}

function workers(settings: Omit<Draining, 'count'>): Contender[] {
  return [
    celeriac((bench) => drain('celeriac', { count: DRAINED.celeriac, ...settings }, bench)),
    ...pools((pool) => (bench) => drain(pool, { count: DRAINED.python, ...settings }, bench)),
    {
      name: 'bullmq',
      label: 'BullMQ',
      run: (bench) => drainBullmq({ count: DRAINED.bullmq, ...settings }, bench),
    },
    {
      name: 'bare',
      label: 'bare Rust, a pipeline a step',
      run: (bench) => drainBare({ count: DRAINED.celeriac, ...settings }, { batch: BARE_BATCH }, bench),
    },
    {
      name: 'bare-together',
      label: 'bare Rust, a command a step',
      run: (bench) =>
        drainBare({ count: DRAINED.celeriac, ...settings }, { batch: BARE_BATCH, together: true }, bench),
    },
  ]
}

/** Ours and Python's usual pool, where only a setting differs. */
function workersWith(settings: Omit<Draining, 'count'>): Contender[] {
  return [
    celeriac((bench) => drain('celeriac', { count: DRAINED.celeriac, ...settings }, bench)),
    {
      name: 'prefork',
      label: PYTHON.prefork,
      run: (bench) => drain('prefork', { count: DRAINED.python, ...settings }, bench),
    },
  ]
}

/** Everything, in its order; `text` is the message that raw clients send. */
export function measurements(text: string): readonly Measurement[] {
  return [
    {
      name: 'send-one',
      title: 'Redis: sent one by one, each awaited',
      unit: 'rate',
      contenders: [
        celeriac((bench) => produceOurs({ count: SENT.one }, bench)),
        {
          name: 'ioredis',
          label: 'ioredis, LPUSH of the same bytes',
          run: (bench) => produceIoredis({ count: SENT.one }, bench),
        },
        {
          name: 'bullmq',
          label: 'BullMQ, add()',
          run: (bench) => produceBullmq({ count: SENT.bullmq }, bench),
        },
        {
          name: 'python',
          label: 'Python Celery, delay()',
          run: (bench) => producePython({ count: SENT.python }, bench),
        },
      ],
    },
    {
      name: 'send-many',
      title: 'Redis: sent, 1,000 under way at once',
      unit: 'rate',
      contenders: [
        celeriac((bench) => produceOurs({ count: SENT.many, inFlight: IN_FLIGHT }, bench)),
        {
          name: 'redis-benchmark',
          label: 'redis-benchmark, LPUSH, pipeline 128',
          run: (bench) => produceRedisBenchmark({ count: SENT.raw, pipeline: PIPELINE, text }, bench),
        },
        {
          name: 'ioredis',
          label: 'ioredis, LPUSH of the same bytes',
          run: (bench) => produceIoredis({ count: SENT.many, inFlight: IN_FLIGHT }, bench),
        },
        {
          name: 'bullmq',
          label: 'BullMQ, add()',
          run: (bench) => produceBullmq({ count: SENT.bullmq, inFlight: IN_FLIGHT }, bench),
        },
      ],
    },
    {
      name: 'send-bulk',
      title: 'Redis: sent in bulk, 1,000 at once',
      unit: 'rate',
      contenders: [
        celeriac(
          (bench) => produceOurs({ count: SENT.many, batch: IN_FLIGHT }, bench),
          'celeriac, delayMany()',
        ),
        {
          name: 'bullmq',
          label: 'BullMQ, addBulk()',
          run: (bench) => produceBullmq({ count: SENT.bullmqBulk, batch: IN_FLIGHT }, bench),
        },
        {
          name: 'python',
          label: 'Python Celery, a group',
          run: (bench) => producePython({ count: SENT.python, batch: IN_FLIGHT }, bench),
        },
      ],
    },
    { name: 'work', title: 'Redis: a queue drained, results stored', unit: 'rate', contenders: workers({}) },
    {
      name: 'work-ignored',
      title: 'Redis: a queue drained, results ignored',
      unit: 'rate',
      contenders: workers({ ignoreResult: true }),
    },
    {
      name: 'work-early',
      title: 'Redis: drained, results stored, acknowledged early',
      unit: 'rate',
      contenders: workersWith({ acksLate: false }),
    },
    {
      name: 'work-late',
      title: 'Redis: drained, results stored, acknowledged late',
      unit: 'rate',
      contenders: workersWith({ acksLate: true }),
    },
    {
      name: 'work-prefetch-1',
      title: 'Redis: drained, results stored, prefetch multiplier 1',
      unit: 'rate',
      contenders: workersWith({ prefetchMultiplier: 1 }),
    },
    {
      name: 'work-prefetch-64',
      title: 'Redis: drained, results stored, prefetch multiplier 64',
      unit: 'rate',
      contenders: workersWith({ prefetchMultiplier: 64 }),
    },
    {
      name: 'round-trip',
      title: 'Redis: call to result at idle, median',
      unit: 'milliseconds',
      contenders: [
        celeriac((bench) => roundTrips('celeriac', bench)),
        { name: 'bullmq', label: 'BullMQ', run: (bench) => roundTrips('bullmq', bench) },
        ...pools((pool) => (bench) => roundTrips(pool, bench)),
      ],
    },
    {
      name: 'rabbit-send-one',
      title: 'RabbitMQ: sent one by one, each confirmed',
      unit: 'rate',
      contenders: [
        ...where(
          'amqp',
          celeriac((bench) => produceOnRabbit('celeriac', { count: SENT.python }, bench)),
        ),
        {
          name: 'python',
          label: 'Python Celery, delay()',
          run: (bench) => produceOnRabbit('python', { count: RABBIT.python }, bench),
        },
        {
          name: 'lapin',
          label: 'bare lapin',
          run: (bench) => bareRabbit('publish', { count: SENT.python, window: 1 }, bench),
        },
      ],
    },
    {
      name: 'rabbit-send-many',
      title: 'RabbitMQ: sent, confirmed, 1,000 under way at once',
      unit: 'rate',
      contenders: [
        ...where(
          'amqp',
          celeriac((bench) =>
            produceOnRabbit('celeriac', { count: RABBIT.celeriac, inFlight: IN_FLIGHT }, bench),
          ),
        ),
        {
          name: 'lapin',
          label: 'bare lapin',
          run: (bench) => bareRabbit('publish', { count: RABBIT.celeriac, window: IN_FLIGHT }, bench),
        },
      ],
    },
    {
      name: 'rabbit-work',
      title: 'RabbitMQ: a queue drained, results ignored',
      unit: 'rate',
      contenders: [
        ...where(
          'amqp',
          celeriac((bench) => drainRabbit('celeriac', { count: RABBIT.celeriac }, bench)),
        ),
        ...pools((pool) => (bench) => drainRabbit(pool, { count: RABBIT.python }, bench)),
        {
          name: 'lapin',
          label: 'bare lapin, an acknowledgement a message',
          // As many as our worker has with 100 at once and the default multiplier.
          run: (bench) => bareRabbit('consume', { count: RABBIT.celeriac, window: 400 }, bench),
        },
      ],
    },
    {
      name: 'embedded',
      title: 'SQLite file between two processes: from call to result, 1,000 under way at once',
      unit: 'rate',
      contenders: [celeriac((bench) => embeddedRoundTrips(EMBEDDED.roundTrips, bench))],
    },
    {
      name: 'embedded-tasks',
      title: 'SQLite file between two processes: sent by one, run by the other, no results',
      unit: 'rate',
      contenders: [celeriac((bench) => embeddedTasks(EMBEDDED.tasks, bench))],
    },
    {
      name: 'hold',
      title: 'A held ETA task, of 50,000',
      unit: 'bytes',
      contenders: [
        celeriac((bench) => hold('celeriac', bench)),
        { name: 'prefork', label: PYTHON.prefork, run: (bench) => hold('prefork', bench) },
      ],
    },
    {
      name: 'start',
      title: 'Start of a process to its first task sent',
      unit: 'milliseconds',
      contenders: [
        celeriac((bench) => firstSend('celeriac', bench)),
        { name: 'ioredis', label: 'ioredis, LPUSH', run: firstSendIoredis },
        { name: 'bullmq', label: 'BullMQ', run: (bench) => firstSend('bullmq', bench) },
        { name: 'python', label: 'Python Celery', run: (bench) => firstSend('python', bench) },
        { name: 'node', label: 'bare Node, nothing sent', run: startBareNode },
        { name: 'bare-python', label: 'bare Python, nothing sent', run: startBarePython },
      ],
    },
    {
      name: 'memory',
      title: 'Resident memory of a worker, idle',
      unit: 'mebibytes',
      contenders: [
        celeriac((bench) => workerMemory('celeriac', LOADED.celeriac, bench)),
        { name: 'node', label: 'bare Node', run: bareNodeMemory },
        { name: 'bullmq', label: 'BullMQ', run: (bench) => workerMemory('bullmq', LOADED.celeriac, bench) },
        ...pools((pool) => (bench) => workerMemory(pool, LOADED.python, bench)),
      ],
    },
  ]
}
