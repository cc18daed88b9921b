import { createRequire } from 'node:module'

import { CeleriacError, isCeleriacErrorCode } from './errors.ts'
import { nativeMissing } from './native-missing.ts'
import type * as NativeModule from '#native'
import type {
  NativeBroker,
  NativeBrokerOptions,
  NativeFailure,
  NativeLogRecord,
  NativeResults,
  NativeResultsOptions,
  NativeWorker,
  NativeWorkerOptions,
} from '#native'

export type {
  NativeBroker,
  NativeBrokerOptions,
  NativeDeadLetter,
  NativeExchange,
  NativeFeatures,
  NativeLogRecord,
  NativeQueue,
  NativeResults,
  NativeResultsOptions,
  NativeRoute,
  NativeTask,
  NativeWorker,
  NativeWorkerOptions,
} from '#native'

/**
 * What the core calls with what became of calls: of those that succeeded the first number of a run and how many there are, run by
 * run; their documents in the same order, or null; and those that failed, or null.
 */
export type Report = (
  runs: readonly number[],
  documents: readonly string[] | null,
  failures: readonly NativeFailure[] | null,
) => void

/** The Rust core: the declarations of native.d.cts. */
export type Native = typeof NativeModule

let binding: Native | undefined

/** The Rust core, loaded on first use, so that an app can be imported where no binary is. */
export function native(): Native {
  binding ??= load()
  return binding
}

function load(): Native {
  try {
    return createRequire(import.meta.url)('#native') as Native
  } catch (cause) {
    throw nativeMissing(cause)
  }
}

const trace: ((line: string) => void) | null =
  process.env['CELERIAC_TRACE_NATIVE'] === '1'
    ? (line) => process.stderr.write(`celeriac native: ${line}\n`)
    : null

/** Whether CELERIAC_TRACE_NATIVE=1 is set: calls into the core go to stderr, and errors know their callers. */
export const tracing = trace !== null

/** Opens a connection of the core to a broker; nothing is connected yet. */
export function openNativeBroker(options: NativeBrokerOptions, report: Report): NativeBroker {
  return call('broker.open', () => native().NativeBroker.open(options, report))
}

/** Opens a result store of the core; nothing is connected yet. */
export function openNativeResults(options: NativeResultsOptions, report: Report): NativeResults {
  return call('results.open', () => native().NativeResults.open(options, report))
}

/** Makes a worker of the core; it does nothing yet. Without `results` it stores nothing. */
export function openNativeWorker(
  broker: NativeBroker,
  results: NativeResults | null,
  options: NativeWorkerOptions,
): NativeWorker {
  return call('worker.open', () => native().NativeWorker.open(broker, results, options))
}

/** Sends the core's log records of `level` and above to `write`, in batches; the last call of a process wins. */
export function setNativeLogger(level: string, write: (records: NativeLogRecord[]) => void): void {
  call('setLogger', () => native().setLogger(level, write))
}

/** How Python prints the value of a JSON text, as Celery prints results in its log; `tuple` takes an array for a tuple. */
export function pythonRepr(json: string, maxLength: number, tuple: boolean = false): string {
  return call('pythonRepr', () => native().pythonRepr(json, tuple, maxLength))
}

/**
 * Calls the core. Its errors come out as {@link CeleriacError}s with the stack of the caller; `name` says in the trace
 * what was called.
 */
export function call<T>(name: string, work: () => T): T {
  trace?.(name)
  try {
    return work()
  } catch (cause) {
    throw fromNative(cause)
  }
}

/** {@link call} for what returns a promise. */
export async function callAsync<T>(name: string, work: () => Promise<T>): Promise<T> {
  trace?.(name)
  try {
    return await work()
  } catch (cause) {
    trace?.(`${name} failed: ${String(cause)}`)
    throw fromNative(cause)
  }
}

/** An error from a report, as one whose stack names those who await the caller of this. */
export function rethrown(error: unknown): unknown {
  if (!(error instanceof CeleriacError)) return error
  return new CeleriacError(
    error.code,
    error.message,
    error.cause === undefined ? undefined : { cause: error.cause },
  )
}

function fromNative(cause: unknown): unknown {
  if (cause instanceof CeleriacError || !(cause instanceof Error)) return cause
  const { code } = cause as { code?: unknown }
  return isCeleriacErrorCode(code) ? new CeleriacError(code, cause.message, { cause }) : cause
}

interface Pending {
  resolve(value: unknown): void
  reject(reason: unknown): void
  /** What a success resolves with; undefined for waits, which resolve with their document. */
  value: unknown
  /** Where the call was made; only when tracing, for it costs more than the call. */
  caller: Error | null
}

/** Far enough away to never fire; setInterval takes no more. */
const NEVER_MS = 2 ** 31 - 1

/**
 * Calls into the core that are under way. Each has a number, which the core names in a report when it is done. As long
 * as one is outstanding the process is kept alive; the core's own callbacks never do.
 */
export class Calls {
  /** Numbers are used once: a report may still name a call that was cancelled. */
  readonly #pending = new Map<number, Pending>()
  #next = 0
  #handle: NodeJS.Timeout | undefined

  /** How many calls have no answer yet. */
  get outstanding(): number {
    return this.#pending.size
  }

  /**
   * Makes a call: `start` gets its number. The promise resolves with `value` when the core reports the call done, or
   * with its document when `value` is undefined; it rejects when `start` throws or the core reports a failure.
   */
  make<T>(value: T, start: (call: number) => void): Promise<T> {
    const call = this.#next
    const promise = this.begin(value)
    try {
      start(call)
    } catch (error) {
      this.cancel(call, fromNative(error))
    }
    return promise
  }

  /** The number of the next call. */
  get next(): number {
    return this.#next
  }

  /** Notes a call that the core is yet to hear of; {@link next} was its number. Else as {@link make}. */
  begin<T>(value: T): Promise<T> {
    return new Promise((resolve, reject) => {
      const caller = tracing ? new Error('called here') : null
      this.#add({ resolve: resolve as (value: unknown) => void, reject, value, caller })
    })
  }

  /**
   * Notes as many calls as `failed` is called for when they fail: with the place of one among them and its error. Resolves once
   * each is settled.
   */
  beginMany(count: number, failed: (index: number, error: unknown) => void): Promise<void> {
    return new Promise((resolve) => {
      let left = count
      if (left === 0) resolve()
      const settled = (): void => {
        if (--left === 0) resolve()
      }
      const caller = tracing ? new Error('called here') : null
      for (let index = 0; index < count; index++) {
        const reject = (error: unknown): void => {
          failed(index, error)
          settled()
        }
        this.#add({ resolve: settled, reject, value: null, caller })
      }
    })
  }

  /** What `work` throws, calls end with that begin with `first`. */
  cross(first: number, count: number, work: () => void): void {
    try {
      work()
    } catch (cause) {
      const error = fromNative(cause)
      for (let index = 0; index < count; index++) this.cancel((first + index) >>> 0, error)
    }
  }

  /** Forgets a call; its promise rejects with `reason`. False when it was done already. */
  cancel(call: number, reason: unknown): boolean {
    const pending = this.#take(call)
    pending?.reject(reason)
    return pending !== undefined
  }

  /** Settles what a report names. */
  readonly report: Report = (runs, documents, failures) => {
    for (let place = 0, run = 0; run < runs.length; run += 2) {
      const [first, count] = [runs[run] as number, runs[run + 1] as number]
      for (let index = 0; index < count; index++, place++) {
        const pending = this.#take((first + index) >>> 0)
        if (pending !== undefined)
          pending.resolve(pending.value === undefined ? documents?.[place] : pending.value)
      }
    }
    if (failures === null) return
    for (const failure of failures) {
      const pending = this.#take(failure.call)
      if (pending === undefined) continue
      const code = isCeleriacErrorCode(failure.code) ? failure.code : 'ERR_CELERIAC_INTERNAL'
      pending.reject(
        new CeleriacError(code, failure.message, pending.caller ? { cause: pending.caller } : undefined),
      )
    }
  }

  /** Ends every call that is still under way with `reason`. */
  failAll(reason: unknown): void {
    for (const call of this.#pending.keys()) this.cancel(call, reason)
  }

  #add(pending: Pending): void {
    this.#pending.set(this.#next, pending)
    this.#next = (this.#next + 1) >>> 0
    if (this.#pending.size === 1) this.#hold()
  }

  #take(call: number): Pending | undefined {
    const pending = this.#pending.get(call)
    if (pending === undefined) return undefined
    this.#pending.delete(call)
    if (this.#pending.size === 0) this.#handle?.unref()
    return pending
  }

  #hold(): void {
    if (this.#handle === undefined) this.#handle = setInterval(() => {}, NEVER_MS)
    else this.#handle.ref()
  }
}
