/** What tasks did, written by whatever process they ran in, in any language. */

import { closeSync, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { temporaryFolder } from './servers.ts'
import { until } from './wait.ts'

/** A body that began. */
export interface Run {
  readonly id: string
  /** The number of the process that it ran in, where the task tells it. */
  readonly process: number
  /** Milliseconds since 1970, where the task tells it. */
  readonly began: number
  /** The same of its end; undefined as long as there was none. */
  ended: number | undefined
}

/**
 * A file that tasks append lines to. A short line that is appended at once is written whole, and it stays when the
 * process that wrote it is killed. Lines `begin ID PROCESS MILLISECONDS` and `end ID PROCESS MILLISECONDS` make {@link runs}.
 */
export class Ledger {
  readonly path = join(temporaryFolder(), 'ledger')
  readonly #file = openSync(this.path, 'a+')
  readonly #lines: string[] = []
  readonly #runs: Run[] = []
  /** By id. */
  readonly #byId = new Map<string, Run[]>()
  /** By process. */
  readonly #byProcess = new Map<number, { begun: number; running: Set<Run> }>()
  readonly #ended = new Set<string>()
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
      for (const line of this.#rest.subarray(0, end).toString().split('\n')) this.#add(line)
      this.#rest = this.#rest.subarray(end + 1)
    }
    return this.#lines
  }

  /** What follows `word` and a blank in the lines that begin with them. */
  after(word: string): string[] {
    return this.lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1))
  }

  /** Every body that began, in the order of their beginnings. */
  get runs(): readonly Run[] {
    void this.lines
    return this.#runs
  }

  /** The runs of one task. */
  runsOf(id: string): readonly Run[] {
    void this.lines
    return this.#byId.get(id) ?? []
  }

  /** The ids of the tasks that ended at least once. */
  get ended(): ReadonlySet<string> {
    void this.lines
    return this.#ended
  }

  /** How many bodies a process began, and those of them that did not end. */
  of(process: number | undefined): { begun: number; running: readonly Run[] } {
    void this.lines
    const { begun, running } = this.#byProcess.get(process ?? -1) ?? { begun: 0, running: [] }
    return { begun, running: [...running] }
  }

  /** Waits until the lines fulfil `condition`; `describe` says at the deadline what was amiss. */
  async until(
    seconds: number,
    what: string,
    condition: (lines: readonly string[]) => boolean,
    describe: () => string = () => '',
  ): Promise<void> {
    await until(
      seconds,
      what,
      () => condition(this.lines),
      () =>
        `${describe()}\nthe ledger has ${this.lines.length} lines, the last of them:\n${this.lines.slice(-20).join('\n')}`,
    )
  }

  close(): void {
    closeSync(this.#file)
  }

  #add(line: string): void {
    this.#lines.push(line)
    const [word, id = '', process, at] = line.split(' ')
    if (word === 'begin') {
      const run: Run = { id, process: Number(process), began: Number(at), ended: undefined }
      this.#runs.push(run)
      const others = this.#byId.get(id)
      if (others === undefined) this.#byId.set(id, [run])
      else others.push(run)
      const own = this.#byProcess.get(run.process) ?? { begun: 0, running: new Set() }
      own.begun += 1
      own.running.add(run)
      this.#byProcess.set(run.process, own)
    } else if (word === 'end') {
      this.#ended.add(id)
      const run = this.#byId
        .get(id)
        ?.find((it) => it.ended === undefined && (process === undefined || it.process === Number(process)))
      if (run === undefined) return
      run.ended = Number(at)
      this.#byProcess.get(run.process)?.running.delete(run)
    }
  }
}
