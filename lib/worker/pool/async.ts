import type { Delivery } from '../../request.ts'
import type { TaskRunner } from '../run-task.ts'
import type { Pool, PoolDefinition } from './pool.ts'

/** Bodies on this thread's event loop, as many at once as the core gives out. */
export class AsyncPool implements Pool {
  protected readonly runner: TaskRunner
  #active = 0
  #idle: Array<() => void> = []

  constructor(runner: TaskRunner) {
    this.runner = runner
  }

  get active(): number {
    return this.#active
  }

  begin(delivery: Delivery): void {
    this.#track(this.start(delivery))
  }

  lose(delivery: Delivery, error: unknown): void {
    this.#track(this.runner.lose(delivery, error))
  }

  terminate(ids: readonly string[]): void {
    this.runner.terminate(ids)
  }

  fail(id: string, error: unknown): void {
    this.runner.fail(id, error)
  }

  cancelAll(reason: unknown): void {
    this.runner.cancelAll(reason)
  }

  idle(): Promise<void> {
    return this.#active === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve))
  }

  protected start(delivery: Delivery): Promise<void> | undefined {
    return this.runner.run(delivery)
  }

  #track(work: Promise<void> | undefined): void {
    if (work === undefined) return
    this.#active += 1
    void work.then(this.#ended, this.#ended)
  }

  readonly #ended = (): void => {
    this.#active -= 1
    if (this.#active > 0) return
    for (const resolve of this.#idle.splice(0)) resolve()
  }
}

export const asyncPool: PoolDefinition = {
  name: 'async',
  aliases: ['gevent', 'eventlet'],
  defaultConcurrency: 100,
  maxConcurrency: null,
  canKill: false,
  create: (runner) => new AsyncPool(runner),
}
