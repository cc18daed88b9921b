/** What tasks did, written by whatever process they ran in, in any language. */

import { closeSync, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { temporaryFolder } from './servers.ts'
import { until } from './wait.ts'

/**
 * A file that tasks append lines to. A short line that is appended at once is written whole, and it stays when the
 * process that wrote it is killed.
 */
export class Ledger {
  readonly path = join(temporaryFolder(), 'ledger')
  readonly #file = openSync(this.path, 'a+')
  readonly #lines: string[] = []
  #rest = Buffer.alloc(0)
  #position = 0

  /** The lines so far, in the order in which they were written. */
  get lines(): readonly string[] {
    const chunk = Buffer.alloc(1 << 16)
    for (let size; (size = readSync(this.#file, chunk, 0, chunk.length, this.#position)) > 0;) {
      this.#position += size
      this.#rest = Buffer.concat([this.#rest, chunk.subarray(0, size)])
    }
    const end = this.#rest.lastIndexOf('\n')
    if (end >= 0) {
      this.#lines.push(...this.#rest.subarray(0, end).toString().split('\n'))
      this.#rest = this.#rest.subarray(end + 1)
    }
    return this.#lines
  }

  /** What follows `word` and a blank in the lines that begin with them. */
  after(word: string): string[] {
    return this.lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1))
  }

  /** Waits until the lines fulfil `condition`. */
  async until(
    seconds: number,
    what: string,
    condition: (lines: readonly string[]) => boolean,
  ): Promise<void> {
    await until(
      seconds,
      what,
      () => condition(this.lines),
      () =>
        `\nthe ledger has ${this.lines.length} lines, the last of them:\n${this.lines.slice(-20).join('\n')}`,
    )
  }

  close(): void {
    closeSync(this.#file)
  }
}
