import { CeleriacError } from '../../errors.ts'
import type { Delivery } from '../../request.ts'
import type { RunEnvironment } from '../run-task.ts'
import { openAsyncPool } from './async.ts'
import { openSoloPool } from './solo.ts'

/** Runs the bodies of tasks. */
export interface Pool {
  /** How many run at once. */
  readonly concurrency: number
  /** Runs a delivery to its settlement. Never rejects. */
  run(delivery: Delivery): Promise<void>
  /** A revoke came for these ids: fires the signals of those that run here. */
  terminate(taskIds: readonly string[]): void
  /** Fires the signals of all that run: the worker ends without waiting for them. */
  abort(reason: unknown): void
}

/** What a pool is opened with. */
export interface PoolOptions {
  /** `-c`; null is the pool's own default. */
  readonly concurrency: number | null
  readonly environment: RunEnvironment
}

type OpenPool = (options: PoolOptions) => Pool

/** Pools by the name that `-P` takes. A new one adds its line. */
const pools: Readonly<Record<string, OpenPool>> = {
  async: openAsyncPool,
  gevent: openAsyncPool,
  eventlet: openAsyncPool,
  solo: openSoloPool,
}

/** Names that `-P` takes. */
export const poolNames: readonly string[] = Object.keys(pools)

/** Opens the pool of that name. */
export function openPool(name: string, options: PoolOptions): Pool {
  const open = Object.hasOwn(pools, name) ? pools[name] : undefined
  if (open === undefined) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      `there is no pool '${name}'; pools are ${poolNames.join(', ')}`,
    )
  }
  return open(options)
}
