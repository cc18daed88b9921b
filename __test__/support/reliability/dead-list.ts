/** What workers gave up, read as it grows. */

import type { Celery } from 'celeriac'

/** A message in the dead list. */
export interface DeadLetter {
  readonly queue: string
  readonly reason: string
  readonly detail: string
  readonly raw: Buffer
}

/** The dead list of a broker. */
export class DeadList {
  readonly #app: Celery
  readonly #pageSize: number
  readonly #letters: DeadLetter[] = []

  /** With messages of 100 MB a page of many is more than memory holds: `pageSize` is 1 then. */
  constructor(app: Celery, pageSize = 1000) {
    this.#app = app
    this.#pageSize = pageSize
  }

  /** All of it, oldest first. */
  async read(): Promise<readonly DeadLetter[]> {
    for (;;) {
      const page = await this.#app.broker.deadLetters(this.#letters.length, this.#pageSize)
      for (const letter of await Promise.all(page.map(({ id }) => this.#app.broker.deadLetter(id)))) {
        if (letter?.raw === undefined) throw new Error('a dead letter went while the list was read')
        this.#letters.push({ ...letter, raw: letter.raw })
      }
      if (page.length < this.#pageSize) return this.#letters
    }
  }
}
