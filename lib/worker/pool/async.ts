import { TaskRevokedError } from '../../errors.ts'
import type { Delivery } from '../../request.ts'
import { runTask, type RunningTask } from '../run-task.ts'
import type { Pool, PoolOptions } from './pool.ts'

/** How many bodies run at once unless `-c` says otherwise: they mostly wait. */
const DEFAULT_CONCURRENCY = 100

/** Runs bodies on the event loop of this thread, many at once. */
export class AsyncPool implements Pool {
  readonly concurrency: number
  readonly #options: PoolOptions
  readonly #running = new Map<string, RunningTask>()

  constructor(options: PoolOptions, concurrency: number) {
    this.#options = options
    this.concurrency = concurrency
  }

  async run(delivery: Delivery): Promise<void> {
    const id = delivery[2]
    let mine: RunningTask | undefined
    await runTask(this.#options.environment, delivery, (running) => {
      mine = running
      this.#running.set(id, running)
    })
    // The same id may run twice at once, when a message was delivered again.
    if (this.#running.get(id) === mine) this.#running.delete(id)
  }

  terminate(taskIds: readonly string[]): void {
    for (const taskId of taskIds) {
      const running = this.#running.get(taskId)
      if (running === undefined) continue
      running.terminated = true
      running.context.abort(
        new TaskRevokedError({
          type: 'TaskRevokedError',
          module: 'celery.exceptions',
          args: ['terminated'],
          traceback: null,
          taskId,
        }),
      )
    }
  }

  abort(reason: unknown): void {
    for (const running of this.#running.values()) running.context.abort(reason)
  }
}

export function openAsyncPool(options: PoolOptions): Pool {
  return new AsyncPool(options, options.concurrency ?? DEFAULT_CONCURRENCY)
}
