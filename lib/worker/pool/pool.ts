import type { Delivery } from '../../request.ts'
import type { TaskRunner } from '../run-task.ts'

/** Where the bodies of tasks run. The core gives out no more deliveries than there are free places. */
export interface Pool {
  /** Begins a delivery, or puts it in line. Never throws; its end goes to the worker's settler. */
  begin(delivery: Delivery): void
  /** Settles a delivery as failed with that, without beginning it; its message goes to the dead list as poison. */
  lose(delivery: Delivery, error: unknown): void
  /** Ends the tasks of these ids, as far as the pool can. */
  terminate(ids: readonly string[]): void
  /** Settles a task that runs as failed. */
  fail(id: string, error: unknown): void
  /** Gives up what runs: cold shutdown. */
  cancelAll(reason: unknown): void
  /** How many tasks were begun and have not come to their end. */
  readonly active: number
  /** Resolves when none is active, handlers included. */
  idle(): Promise<void>
}

/** A kind of pool: one row of the table in `pools.ts`. */
export interface PoolDefinition {
  /** Name for `-P` and `workerPool`. */
  readonly name: string
  /** Other names for it. */
  readonly aliases: readonly string[]
  /** How many tasks run at once unless `-c` says. */
  readonly defaultConcurrency: number
  /** The most that may run at once; null is no limit. */
  readonly maxConcurrency: number | null
  /** Whether it can end a body that does not listen: hard time limits, limits of tasks and memory. */
  readonly canKill: boolean
  create(runner: TaskRunner): Pool
}
