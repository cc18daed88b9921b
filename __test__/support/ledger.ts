/** What tasks did, written by whatever process they ran in, in any language. */

import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { temporaryFolder } from './servers.ts'
import { until } from './wait.ts'

/**
 * A file that tasks append lines to. A short line that is appended at once is written whole, and it stays when the
 * process that wrote it is killed.
 */
export class Ledger {
  readonly path = join(temporaryFolder(), 'ledger')

  /** The lines so far, in the order in which they were written. */
  get lines(): string[] {
    return existsSync(this.path) ? readFileSync(this.path, 'utf8').split('\n').slice(0, -1) : []
  }

  /** What follows `word` and a blank in the lines that begin with them. */
  after(word: string): string[] {
    return this.lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1))
  }

  /** Waits until the lines fulfil `condition`. */
  async until(seconds: number, what: string, condition: (lines: string[]) => boolean): Promise<void> {
    await until(
      seconds,
      what,
      () => condition(this.lines),
      () => `\nthe ledger has ${this.lines.length} lines, the last of them:\n${this.lines.slice(-20).join('\n')}`,
    )
  }

  write(line: string): void {
    appendFileSync(this.path, `${line}\n`)
  }
}
