import type { RabbitServer } from './rabbitmq.ts'
import type { RedisNumbers } from './redis.ts'
import type { RedisServer } from '../../__test__/support/servers.ts'

/** What a contender is measured with. */
export interface Bench {
  /** Of the benchmark alone, without persistence; every measurement empties it first. */
  readonly redis: RedisServer
  /** Asks the same server for numbers. */
  readonly numbers: RedisNumbers
  /** Started when it is first asked for. */
  rabbitmq(): Promise<RabbitServer>
  /** A file with a message of ours as it lies in a list of Redis, for those who send the same bytes. */
  readonly message: string
  /** How many to take: `full`, or a small part of it when only the working is tried. */
  size(full: number): number
}

/** Figures beside the value. */
export const FIGURES = {
  mainThread: { title: 'main thread', unit: 'µs' },
  p99: { title: 'p99', unit: 'ms' },
  loaded: { title: 'loaded', unit: 'MiB' },
  takenIn: { title: 'taken in', unit: 's' },
} as const
export type Figure = keyof typeof FIGURES

/** What one run of a contender found. */
export interface Sample {
  /** In the unit of its measurement. */
  value: number
  figures?: Partial<Record<Figure, number | null>>
}

/** Somebody who is measured. It throws unless every task ran exactly once. */
export interface Contender {
  /** Short, for `--only` and the results. */
  name: string
  /** For readers. */
  label: string
  run(bench: Bench): Promise<Sample>
}

export const UNITS = {
  rate: { text: '/s', digits: 0, betterIs: 'more' },
  milliseconds: { text: 'ms', digits: 2, betterIs: 'less' },
  mebibytes: { text: 'MiB', digits: 1, betterIs: 'less' },
  bytes: { text: 'bytes', digits: 0, betterIs: 'less' },
} as const

/** One thing that is measured of several contenders, of each once a round. */
export interface Measurement {
  name: string
  title: string
  unit: keyof typeof UNITS
  contenders: readonly Contender[]
}
