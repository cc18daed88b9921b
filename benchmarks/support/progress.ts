import { Presets, SingleBar } from 'cli-progress'

/** How far it is: a bar on a terminal beside the lines, elsewhere the lines alone. */
export class Progress {
  readonly #total: number
  readonly #bar: SingleBar | undefined
  #done = 0

  constructor(total: number) {
    this.#total = total
    if (!process.stdout.isTTY) return
    const format = '{bar} {value} of {total}  {eta_formatted} to go  {now}'
    this.#bar = new SingleBar(
      { format, stream: process.stdout, hideCursor: true, barsize: 24, etaBuffer: 30, clearOnComplete: true },
      Presets.shades_classic,
    )
    this.#bar.start(total, 0, { now: '' })
  }

  /** What is measured now. */
  begin(what: string): void {
    this.#bar?.update({ now: what })
  }

  /** One is done; `line` says what was found. */
  advance(line: string): void {
    this.#done += 1
    const text = `${String(this.#done).padStart(String(this.#total).length)}/${this.#total}  ${line}`
    if (this.#bar === undefined) {
      console.log(text)
      return
    }
    process.stdout.write(`\r\u001B[K${text}\n`)
    this.#bar.update(this.#done)
  }

  /** Leaves the terminal as it was. */
  end(): void {
    this.#bar?.stop()
  }
}
