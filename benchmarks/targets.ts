/** What must hold, within one run on a machine of two processors. */

import type { Figure } from './support/contender.ts'

/** A figure of one contender: `measurement/contender`, and which figure, unless it is the value itself. */
export interface Of {
  cell: string
  figure?: Figure
}

export interface Target {
  name: string
  of: Of
  /** Compared round by round with this; with several, with the best of them. Without it the figure itself counts. */
  to?: readonly [Of, ...Of[]]
  /** A ratio, or where there is nothing to compare with a number of the figure's unit. */
  wanted: { atLeast: number } | { atMost: number }
}

const PYTHON_WORKERS = (measurement: string): [Of, Of, Of] => [
  { cell: `${measurement}/prefork` },
  { cell: `${measurement}/threads` },
  { cell: `${measurement}/solo` },
]

export const TARGETS: readonly Target[] = [
  {
    name: 'sent one by one on Redis, beside LPUSH of ioredis',
    of: { cell: 'send-one/celeriac' },
    to: [{ cell: 'send-one/ioredis' }],
    wanted: { atLeast: 0.9 },
  },
  {
    name: 'sent one by one on Redis, beside Python',
    of: { cell: 'send-one/celeriac' },
    to: [{ cell: 'send-one/python' }],
    wanted: { atLeast: 12 },
  },
  {
    name: '1,000 under way on Redis, beside redis-benchmark',
    of: { cell: 'send-many/celeriac' },
    to: [{ cell: 'send-many/redis-benchmark' }],
    wanted: { atLeast: 0.4 },
  },
  {
    name: '1,000 under way on Redis, beside Python',
    of: { cell: 'send-many/celeriac' },
    to: [{ cell: 'send-one/python' }],
    wanted: { atLeast: 100 },
  },
  {
    name: '1,000 under way on Redis, beside addBulk() of BullMQ',
    of: { cell: 'send-many/celeriac' },
    to: [{ cell: 'send-bulk/bullmq' }],
    wanted: { atLeast: 8 },
  },
  {
    name: '1,000 under way on Redis, main thread a call',
    of: { cell: 'send-many/celeriac', figure: 'mainThread' },
    wanted: { atMost: 3 },
  },
  {
    name: '1,000 under way on RabbitMQ, confirmed, beside bare lapin',
    of: { cell: 'rabbit-send-many/celeriac' },
    to: [{ cell: 'rabbit-send-many/lapin' }],
    wanted: { atLeast: 0.85 },
  },
  {
    name: 'a queue on Redis, results stored, beside the bare cycle',
    of: { cell: 'work/celeriac' },
    to: [{ cell: 'work/bare' }],
    wanted: { atLeast: 0.6 },
  },
  {
    name: 'a queue on Redis, results stored, beside the best pool of Python',
    of: { cell: 'work/celeriac' },
    to: PYTHON_WORKERS('work'),
    wanted: { atLeast: 35 },
  },
  {
    name: 'a queue on Redis, results stored, beside BullMQ',
    of: { cell: 'work/celeriac' },
    to: [{ cell: 'work/bullmq' }],
    wanted: { atLeast: 2.5 },
  },
  {
    name: 'a queue on Redis, results stored, main thread a task',
    of: { cell: 'work/celeriac', figure: 'mainThread' },
    wanted: { atMost: 4 },
  },
  {
    name: 'a queue on Redis, results ignored, beside the bare cycle',
    of: { cell: 'work-ignored/celeriac' },
    to: [{ cell: 'work-ignored/bare' }],
    wanted: { atLeast: 0.5 },
  },
  {
    name: 'a queue on RabbitMQ, beside bare lapin',
    of: { cell: 'rabbit-work/celeriac' },
    to: [{ cell: 'rabbit-work/lapin' }],
    wanted: { atLeast: 0.8 },
  },
  {
    name: 'round trip at idle, p50, beside BullMQ',
    of: { cell: 'round-trip/celeriac' },
    to: [{ cell: 'round-trip/bullmq' }],
    wanted: { atMost: 1.1 },
  },
  {
    name: 'round trip at idle, p99, beside BullMQ',
    of: { cell: 'round-trip/celeriac', figure: 'p99' },
    to: [{ cell: 'round-trip/bullmq', figure: 'p99' }],
    wanted: { atMost: 1.1 },
  },
  {
    name: 'round trip at idle, p50, beside Python prefork',
    of: { cell: 'round-trip/celeriac' },
    to: [{ cell: 'round-trip/prefork' }],
    wanted: { atMost: 0.5 },
  },
  {
    name: 'round trip at idle, p99, beside Python prefork',
    of: { cell: 'round-trip/celeriac', figure: 'p99' },
    to: [{ cell: 'round-trip/prefork', figure: 'p99' }],
    wanted: { atMost: 0.5 },
  },
  {
    name: 'memory of an idle worker, beside bare Node',
    of: { cell: 'memory/celeriac' },
    to: [{ cell: 'memory/node' }],
    wanted: { atMost: 1.5 },
  },
  {
    name: 'memory of a held ETA task',
    of: { cell: 'hold/celeriac' },
    wanted: { atMost: 1536 },
  },
  {
    name: 'tasks between two processes on a SQLite file',
    of: { cell: 'embedded-tasks/celeriac' },
    wanted: { atLeast: 10_000 },
  },
]
