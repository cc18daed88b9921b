import { closeSync, fstatSync, openSync, statSync, writeSync } from 'node:fs'

import { CeleriacError } from '../errors.ts'

/** Where lines go. */
export interface Sink {
  /** Takes a line, without its line feed. `urgent` ones are written at once, with all before them. */
  write(line: string, urgent: boolean): void
  /** Writes what is buffered. */
  flush(): void
  close(): void
}

/** Written at once when this many characters wait. */
const BUFFER_LIMIT = 16 * 1024
/** How often, at most, a file is looked at for having been moved away, in milliseconds. */
const WATCH_INTERVAL_MS = 1000

/**
 * Lines are gathered for one turn of the event loop and written with one call, synchronously, so that nothing is lost
 * when the process ends: what is left is written at `exit`.
 */
export class FileSink implements Sink {
  readonly #path: string | null
  #descriptor: number
  #buffer = ''
  #scheduled = false
  #watchedAt = 0
  #closed = false

  private constructor(descriptor: number, path: string | null) {
    this.#descriptor = descriptor
    this.#path = path
    process.on('exit', this.#atExit)
    process.on('uncaughtExceptionMonitor', this.#atExit)
  }

  /** The process's standard error. */
  static standardError(): FileSink {
    return new FileSink(2, null)
  }

  /**
   * A file that lines are added to. When it was moved away (logrotate), a new one is made, as Python's
   * WatchedFileHandler does. ERR_CELERIAC_INVALID_ARGUMENT when it cannot be opened.
   */
  static file(path: string): FileSink {
    try {
      return new FileSink(openSync(path, 'a'), path)
    } catch (cause) {
      throw new CeleriacError(
        'ERR_CELERIAC_INVALID_ARGUMENT',
        `cannot write the log file ${path}: ${cause instanceof Error ? cause.message : String(cause)}`,
        { cause },
      )
    }
  }

  write(line: string, urgent: boolean): void {
    if (this.#closed) return
    this.#buffer += `${line}\n`
    if (urgent || this.#buffer.length >= BUFFER_LIMIT) this.flush()
    else if (!this.#scheduled) {
      this.#scheduled = true
      setImmediate(() => this.flush())
    }
  }

  flush(): void {
    this.#scheduled = false
    if (this.#buffer === '') return
    const text = this.#buffer
    this.#buffer = ''
    try {
      this.#reopen()
      writeAll(this.#descriptor, Buffer.from(text))
    } catch {
      // A log that cannot be written (a full disk, a closed pipe) must not end the worker.
    }
  }

  close(): void {
    this.flush()
    process.off('exit', this.#atExit)
    process.off('uncaughtExceptionMonitor', this.#atExit)
    this.#closed = true
    if (this.#path !== null) closeSync(this.#descriptor)
  }

  readonly #atExit = (): void => this.flush()

  #reopen(): void {
    if (this.#path === null || Date.now() - this.#watchedAt < WATCH_INTERVAL_MS) return
    this.#watchedAt = Date.now()
    const there = statSync(this.#path, { throwIfNoEntry: false })
    const open = fstatSync(this.#descriptor)
    if (there !== undefined && there.ino === open.ino && there.dev === open.dev) return
    const descriptor = openSync(this.#path, 'a')
    closeSync(this.#descriptor)
    this.#descriptor = descriptor
  }
}

const PAUSE = new Int32Array(new SharedArrayBuffer(4))
/** How long a reader that takes nothing may hold up the process, in milliseconds. */
const PATIENCE_MS = 2000

function writeAll(descriptor: number, bytes: Buffer): void {
  let written = 0
  let waited = 0
  while (written < bytes.length) {
    try {
      written += writeSync(descriptor, bytes, written)
    } catch (error) {
      // A pipe that does not block is full: its reader is slow.
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN' || waited >= PATIENCE_MS) throw error
      Atomics.wait(PAUSE, 0, 0, 5)
      waited += 5
    }
  }
}
