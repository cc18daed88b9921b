import type { NativeWorker } from '#native'

/**
 * Says right before a body whether it may begin: its message may have gone back to its queue meanwhile, because this thread
 * was busy for long, or somebody else may have it, because this process stood still for longer than a lease. Both are seen in
 * memory that is shared with the core (`NativeWorker.slots`), without a call for each body.
 */
export class Gate {
  readonly #worker: NativeWorker
  readonly #slots: Int32Array
  /** When the core was last asked, by two clocks: the first may stop while the machine sleeps, the second may be set. */
  #askedAt = 0
  #askedAtWall = 0
  /** For how many milliseconds from then on the slots alone decide. */
  #left = 0

  constructor(worker: NativeWorker) {
    this.#worker = worker
    this.#slots = worker.slots()
    // The core sees this where the memory is really shared, and gives no slots where it is not.
    this.#slots[0] = 1
  }

  /** Asks the core how long its leases stand. */
  renew(): void {
    // Before asking, so that a standstill in between counts.
    this.#askedAt = performance.now()
    this.#askedAtWall = Date.now()
    this.#left = this.#worker.leaseLeft()
  }

  /** Whether the body of this delivery may begin. From then on the core knows that it has. */
  begin(tag: number, slot: number): boolean {
    if (slot === 0 || !this.#stands()) {
      const begins = this.#worker.begin(tag)
      this.renew()
      return begins
    }
    const given = (tag * 2) | 0
    return Atomics.compareExchange(this.#slots, slot, given, (given + 1) | 0) === given
  }

  #stands(): boolean {
    const wall = Date.now() - this.#askedAtWall
    return wall >= 0 && wall < this.#left && performance.now() - this.#askedAt < this.#left
  }
}
