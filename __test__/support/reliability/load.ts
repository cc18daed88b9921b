/** Tasks at a pace, and who runs them. */

import type { Fleet } from '../fleet.ts'

/** Sends tasks at a pace, and counts who ran them. */
export class Load {
  readonly #fleet: Fleet
  readonly #milliseconds: number
  #sent = 0

  /** Each task takes that long. */
  constructor(both: Fleet, milliseconds: number) {
    this.#fleet = both
    this.#milliseconds = milliseconds
  }

  /** `rate` tasks a second for that long, 0 for `rate` at once; resolves when all have ended. */
  async run(what: string, rate: number, seconds: number): Promise<LoadOutcome> {
    const { ledger } = this.#fleet
    const before = ledger.runs.length
    const ids = await this.#send(rate, seconds)
    this.#sent += ids.length
    await ledger.until(90, `the end of ${what}`, () => ledger.ended.size >= this.#sent)
    const runs = ledger.runs.slice(before)
    if (
      runs
        .map(({ id }) => id)
        .toSorted()
        .join() !== ids.toSorted().join()
    ) {
      throw new Error(`of ${ids.length} tasks ${runs.length} ran, not each of them once`)
    }
    const by = new Map<number, number>()
    for (const { process } of runs) by.set(process, (by.get(process) ?? 0) + 1)
    const first = Math.min(...runs.map(({ began }) => began))
    const last = Math.max(...runs.map(({ ended }) => ended ?? 0))
    return { by, total: runs.length, rate: Math.round((runs.length * 1000) / (last - first)) }
  }

  async #send(rate: number, seconds: number): Promise<string[]> {
    const began = performance.now()
    const total = seconds === 0 ? rate : rate * seconds
    const sending: Promise<{ id: string }>[] = []
    while (sending.length < total) {
      const due = seconds === 0 ? total : Math.min(total, ((performance.now() - began) / 1000) * rate)
      while (sending.length < due) {
        sending.push(this.#fleet.app.sendTask('node.work', [this.#milliseconds], { queue: 'shared' }))
      }
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    return (await Promise.all(sending)).map(({ id }) => id)
  }
}

/** What became of the tasks. */
export interface LoadOutcome {
  /** How many tasks ran in each process. */
  readonly by: ReadonlyMap<number, number>
  readonly total: number
  /** Tasks per second. */
  readonly rate: number
}
