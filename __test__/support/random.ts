/** Random numbers that can be had again: set SEED to the one that a failed test printed. */
export class Random {
  readonly seed: number
  #state: number

  constructor(seed?: number) {
    this.seed = seed ?? Number(process.env['SEED'] ?? Math.floor(Math.random() * 2 ** 31))
    this.#state = this.seed
    if (seed === undefined) console.log(`SEED=${this.seed}`)
  }

  /** Numbers of their own for what runs beside others, whoever asks first; this seed gives them too. */
  branch(): Random {
    return new Random(this.between(0, 2 ** 31 - 1))
  }

  /** A whole number from `low` to `high`, both included (mulberry32). */
  between(low: number, high: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    const fraction = ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
    return low + Math.floor(fraction * (high - low + 1))
  }
}
