import { AsyncPool } from './async.ts'
import type { Pool, PoolOptions } from './pool.ts'

/** Runs bodies on the event loop of this thread, one at a time, whatever `-c` says. */
export function openSoloPool(options: PoolOptions): Pool {
  return new AsyncPool(options, 1)
}
