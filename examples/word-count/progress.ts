import { Presets, SingleBar } from 'cli-progress'

/** How far it is: a bar on a terminal, a line for every quarter elsewhere. */
export class Progress {
  readonly #total: number
  readonly #bar: SingleBar | undefined
  readonly #begin = performance.now()
  #done = 0

  constructor(total: number) {
    this.#total = total
    if (!process.stdout.isTTY) return
    const format = '  {bar} {percentage} %  {value} of {total} tasks  {rate}/s'
    this.#bar = new SingleBar(
      { format, stream: process.stdout, hideCursor: true, barsize: 32, fps: 20 },
      Presets.shades_classic,
    )
    this.#bar.start(total, 0, { rate: '–' })
  }

  advance(): void {
    this.#done += 1
    const rate = Math.round(this.#done / ((performance.now() - this.#begin) / 1000))
    if (this.#bar !== undefined) this.#bar.update(this.#done, { rate: rate.toLocaleString('en') })
    else if (this.#done % Math.ceil(this.#total / 4) === 0) this.#say()
  }

  /** Leaves the terminal as it was. */
  end(): void {
    this.#bar?.stop()
  }

  #say(): void {
    console.log(`  ${this.#done} of ${this.#total} tasks`)
  }
}
