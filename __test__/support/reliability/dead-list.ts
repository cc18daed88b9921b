/** What workers gave up, with its bytes. */

import type { Celery } from 'celeriac'
import type { TestBroker } from '../brokers.ts'

/** A message in the dead list. */
export interface GivenUp {
  readonly id: string
  readonly queue: string
  readonly reason: string
}

/** {@link GivenUp} with its bytes. */
export interface WholeGivenUp extends GivenUp {
  readonly raw: Buffer
}

/** The most letters that are asked for at once. */
const PAGE = 1000

/** The dead list of a broker. */
export class DeadList {
  readonly #app: Celery
  readonly #broker: TestBroker
  #known: GivenUp[] = []

  constructor(app: Celery, broker: TestBroker) {
    this.#app = app
    this.#broker = broker
  }

  /** All of it. Anew each time it has grown: what comes in the same millisecond may stand before what was there. */
  async list(): Promise<readonly GivenUp[]> {
    const { broker } = this.#app
    if ((await broker.deadCount()) === this.#known.length) return this.#known
    this.#known = []
    for (;;) {
      const page = await broker.deadLetters(this.#known.length, PAGE)
      this.#known.push(...page)
      if (page.length < PAGE) return this.#known
    }
  }

  /** All of it with the bytes, `atOnce` letters at a time: with messages of 100 MB, 1. */
  async read(atOnce = 100): Promise<WholeGivenUp[]> {
    if (this.#broker.dead !== undefined) return this.#broker.dead()
    const all = await this.list()
    const letters: WholeGivenUp[] = []
    for (let at = 0; at < all.length; at += atOnce) {
      const some = all.slice(at, at + atOnce)
      for (const letter of await Promise.all(some.map(({ id }) => this.#app.broker.deadLetter(id)))) {
        if (letter?.raw === undefined) throw new Error('a dead letter went while the list was read')
        letters.push({ ...letter, raw: letter.raw })
      }
    }
    return letters
  }
}
