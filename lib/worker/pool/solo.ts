import type { Delivery } from '../../request.ts'
import { AsyncPool } from './async.ts'
import type { PoolDefinition } from './pool.ts'

/** One body at a time, its handlers included. */
export class SoloPool extends AsyncPool {
  #last: Promise<void> = Promise.resolve()

  protected override start(delivery: Delivery): Promise<void> {
    this.#last = this.#last.catch(() => {}).then(() => this.runner.run(delivery))
    return this.#last
  }
}

export const soloPool: PoolDefinition = {
  name: 'solo',
  aliases: [],
  defaultConcurrency: 1,
  maxConcurrency: 1,
  canKill: false,
  create: (runner) => new SoloPool(runner),
}
