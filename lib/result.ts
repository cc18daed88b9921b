import type { Celery } from './app.ts'
import { CeleriacError, type TaskError } from './errors.ts'
import type { RevokeOptions } from './control.ts'
import { onAbort } from './results/abort.ts'
import { errorFromDocument } from './results/exception.ts'
import { EXCEPTION_STATES, PROPAGATE_STATES, READY_STATES, type ResultMeta } from './results/store.ts'

/** How {@link AsyncResult.get} waits; null is the default. */
export interface GetOptions {
  /** Seconds; without it, it waits for ever. 0 looks once. The task is not ended by it. */
  timeout?: number | null | undefined
  /** Ends the wait, not the task. */
  signal?: AbortSignal | null | undefined
  /** Throw the error of a task that failed; false returns it. Default true. */
  propagate?: boolean | null | undefined
  /** Taken for likeness with Celery; waiting never polls. */
  interval?: number | null | undefined
  /** Throw too when a task before this one (`parent`) failed. Default true. */
  followParents?: boolean | null | undefined
}

/** A result in JSON: `[[id, parent], null]` (`AsyncResult.as_tuple`). */
export type ResultTuple = [[id: string, parent: ResultTuple | null], ResultTuple[] | null]

/**
 * The result of a task, by id. It is no promise and never thenable, so `await add.delay()` gives the AsyncResult;
 * `await result.get()` the task's result.
 */
export class AsyncResult<T = unknown> {
  readonly id: string
  /** The result of the task before this one in a workflow. */
  parent: AsyncResult | null
  /** Whether the call asked for no result: `get()` gives null at once. */
  ignored: boolean
  readonly #app: Celery
  #meta: ResultMeta | undefined

  constructor(app: Celery, id: string, parent: AsyncResult | null = null, ignored = false) {
    this.#app = app
    this.id = id
    this.parent = parent
    this.ignored = ignored
  }

  get app(): Celery {
    return this.#app
  }

  /** Celery's other name of {@link id}. */
  get taskId(): string {
    return this.id
  }

  /**
   * Waits until the task is ready; gives its result. A task that failed throws {@link TaskError}, one that was
   * revoked TaskRevokedError. TimeoutError after `timeout`; ERR_CELERIAC_NO_RESULT_BACKEND without a result backend.
   */
  async get(options: GetOptions = {}): Promise<T> {
    if (this.ignored) return null as T
    const meta = await this.#wait(options)
    if (!PROPAGATE_STATES.has(meta.status)) return meta.result as T
    const error = errorFromDocument(meta.result, this.id, meta.traceback)
    if (options.propagate ?? true) throw error
    return error as T
  }

  async #wait(options: GetOptions): Promise<ResultMeta> {
    checkGetOptions(options)
    const timeout = options.timeout ?? undefined
    const given = options.signal ?? undefined
    given?.throwIfAborted()
    if (this.#meta !== undefined) return this.#meta
    if (this.parent === null || !(options.propagate ?? true) || !(options.followParents ?? true)) {
      return this.#remember(await this.#app.backend.wait(this.id, { timeout, signal: given }))
    }
    // Not AbortSignal.any: a signal that lives long would remember each wait that it was given to.
    const ending = new AbortController()
    const { signal } = ending
    const keepGoing = given === undefined ? undefined : onAbort(given, (reason) => ending.abort(reason))
    try {
      const own = this.#app.backend.wait(this.id, { timeout, signal })
      return this.#remember(await Promise.race([own, ...this.#failuresOfParents({ signal })]))
    } finally {
      keepGoing?.()
      ending.abort()
    }
  }

  /** Promises that reject when a task before this one fails, and else never settle. */
  #failuresOfParents(wait: { signal: AbortSignal }): Array<Promise<never>> {
    const failures: Array<Promise<never>> = []
    for (let node = this.parent; node !== null; node = node.parent) {
      const { id } = node
      const failure = this.#app.backend.wait(id, { signal: wait.signal }).then(
        (meta) => {
          if (PROPAGATE_STATES.has(meta.status)) throw errorFromDocument(meta.result, id, meta.traceback)
          return NEVER
        },
        () => NEVER,
      )
      failure.catch(() => {})
      failures.push(failure)
    }
    return failures
  }

  /** What is stored now: read from the result backend unless the state was final before. */
  async #read(): Promise<ResultMeta> {
    if (this.#meta !== undefined) return this.#meta
    const [meta] = await this.#app.backend.get([this.id])
    return this.#remember(meta ?? pending(this.id))
  }

  #remember(meta: ResultMeta): ResultMeta {
    if (READY_STATES.has(meta.status)) this.#meta = meta
    return meta
  }

  /** PENDING (also when nothing is known), RECEIVED, STARTED, RETRY, SUCCESS, FAILURE, REVOKED or a custom state. */
  async state(): Promise<string> {
    return (await this.#read()).status
  }

  /** {@link state}. */
  status(): Promise<string> {
    return this.state()
  }

  /** The result; the error of a task that failed, was revoked or is being retried; the meta of a custom state. */
  async result(): Promise<T | TaskError> {
    const meta = await this.#read()
    if (EXCEPTION_STATES.has(meta.status)) return errorFromDocument(meta.result, this.id, meta.traceback)
    return meta.result as T
  }

  /** {@link result}. */
  info(): Promise<T | TaskError> {
    return this.result()
  }

  /** Whether the state is final. */
  async ready(): Promise<boolean> {
    return READY_STATES.has(await this.state())
  }

  /** Whether the state is SUCCESS. */
  async successful(): Promise<boolean> {
    return (await this.state()) === 'SUCCESS'
  }

  /** Whether the state is FAILURE. */
  async failed(): Promise<boolean> {
    return (await this.state()) === 'FAILURE'
  }

  /** Whether anything is stored under this id; a task that waits and one that never was look alike otherwise. */
  async exists(): Promise<boolean> {
    if (this.#meta !== undefined) return true
    const [meta] = await this.#app.backend.get([this.id])
    return meta !== null && meta !== undefined
  }

  /** Traceback or stack of a failure. */
  async traceback(): Promise<string | null> {
    return (await this.#read()).traceback
  }

  /** Results of the tasks that this one sent; members of a group one by one. Null until the task is ready. */
  async children(): Promise<AsyncResult[] | null> {
    const { children } = await this.#read()
    return children === null ? null : children.flatMap((child) => resultsFromTuple(child, this.#app))
  }

  /** Name of the task; with `resultExtended` only, as is all that follows. */
  async name(): Promise<string | null> {
    return (await this.#read()).name
  }

  async args(): Promise<unknown> {
    return (await this.#read()).args
  }

  async kwargs(): Promise<unknown> {
    return (await this.#read()).kwargs
  }

  /** Node name of the worker that ran it. */
  async worker(): Promise<string | null> {
    return (await this.#read()).worker
  }

  async retries(): Promise<number | null> {
    return (await this.#read()).retries
  }

  async queue(): Promise<string | null> {
    return (await this.#read()).queue
  }

  /** When it ended; null before. Known without `resultExtended` too. */
  async dateDone(): Promise<Date | null> {
    const { dateDone } = await this.#read()
    return dateDone === null
      ? null
      : new Date(/[Zz]|[+-]\d\d:?\d\d$/.test(dateDone) ? dateDone : `${dateDone}Z`)
  }

  /**
   * Calls `callback` with this result once the task is ready, whatever its state (Celery's `then`). An error of
   * waiting goes to `onError`, or is an unhandled rejection.
   */
  onReady(callback: (result: this) => unknown, onError?: (error: unknown) => unknown): void {
    // Nobody stores anything under this id, so waiting would never end; get() does not wait either.
    if (this.ignored) queueMicrotask(() => callback(this))
    else void this.#callWhenReady(callback, onError)
  }

  async #callWhenReady(
    callback: (result: this) => unknown,
    onError?: (error: unknown) => unknown,
  ): Promise<void> {
    try {
      await this.#wait({ followParents: false })
    } catch (error) {
      if (onError === undefined) throw error
      onError(error)
      return
    }
    callback(this)
  }

  /** Removes what is stored of this task and of its parents. */
  async forget(): Promise<void> {
    this.#meta = undefined
    const ids = [this.id]
    for (let node = this.parent; node !== null; node = node.parent) ids.push(node.id)
    await this.#app.backend.forget(ids)
  }

  /** Has workers not run this task; with `terminate`, end it. */
  revoke(options?: RevokeOptions): Promise<void> {
    return this.#app.control.revoke(this.id, options)
  }

  /** The form in which results travel. */
  asTuple(): ResultTuple {
    return [[this.id, this.parent === null ? null : this.parent.asTuple()], null]
  }

  /** Its id and those of its parents. */
  asList(): string[] {
    return [this.id, ...(this.parent?.asList() ?? [])]
  }

  /** Whether `other` is the result of the same task, or its id. */
  equals(other: unknown): boolean {
    return other instanceof AsyncResult ? other.id === this.id : other === this.id
  }

  toJSON(): ResultTuple {
    return this.asTuple()
  }

  toString(): string {
    return this.id
  }
}

const NEVER = new Promise<never>(() => {})

/** The result of a task that ran here, by `apply()` or `taskAlwaysEager`: ready at once, stored nowhere. */
export class EagerResult<T = unknown> extends AsyncResult<T> {
  readonly #state: string
  readonly #result: unknown
  readonly #traceback: string | null
  readonly #name: string
  #revoked = false

  constructor(
    app: Celery,
    id: string,
    result: unknown,
    state: string,
    name: string,
    traceback: string | null = null,
  ) {
    super(app, id)
    this.#result = result
    this.#state = state
    this.#name = name
    this.#traceback = traceback
  }

  override async get(options: GetOptions = {}): Promise<T> {
    const state = await this.state()
    if (state === 'REVOKED') throw await this.result()
    if (!PROPAGATE_STATES.has(state)) return this.#result as T
    if (options.propagate ?? true) throw this.#result
    return this.#result as T
  }

  override state(): Promise<string> {
    return Promise.resolve(this.#revoked ? 'REVOKED' : this.#state)
  }

  /** The result, or what the body threw. */
  override result(): Promise<T | TaskError> {
    if (this.#revoked) {
      const document = {
        exc_type: 'TaskRevokedError',
        exc_message: ['revoked'],
        exc_module: 'celery.exceptions',
      }
      return Promise.resolve(errorFromDocument(document, this.id, null))
    }
    return Promise.resolve(this.#result as T | TaskError)
  }

  override exists(): Promise<boolean> {
    return Promise.resolve(true)
  }

  override traceback(): Promise<string | null> {
    return Promise.resolve(this.#traceback)
  }

  override name(): Promise<string | null> {
    return Promise.resolve(this.#name)
  }

  override ready(): Promise<boolean> {
    return Promise.resolve(true)
  }

  override children(): Promise<AsyncResult[] | null> {
    return Promise.resolve(null)
  }

  override onReady(callback: (result: this) => unknown): void {
    queueMicrotask(() => callback(this))
  }

  override forget(): Promise<void> {
    return Promise.resolve()
  }

  override revoke(): Promise<void> {
    this.#revoked = true
    return Promise.resolve()
  }
}

/** The results that a tuple stands for: one of a task, many of a group. */
export function resultsFromTuple(tuple: unknown, app: Celery): AsyncResult[] {
  if (!Array.isArray(tuple) || tuple.length !== 2) {
    throw new CeleriacError('ERR_CELERIAC_DECODE', `no result in JSON: ${JSON.stringify(tuple)}`)
  }
  const [head, members] = tuple as [unknown, unknown]
  if (Array.isArray(members)) return members.flatMap((member) => resultsFromTuple(member, app))
  const [id, parent] = (Array.isArray(head) ? head : [head, null]) as [unknown, unknown]
  if (typeof id !== 'string')
    throw new CeleriacError('ERR_CELERIAC_DECODE', `no task id in a result: ${JSON.stringify(tuple)}`)
  const before =
    parent === null || parent === undefined ? null : (resultsFromTuple(parent, app).at(-1) ?? null)
  return [new AsyncResult(app, id, before)]
}

function pending(taskId: string): ResultMeta {
  return {
    taskId,
    status: 'PENDING',
    result: null,
    traceback: null,
    children: null,
    dateDone: null,
    parentId: null,
    groupId: null,
    name: null,
    args: null,
    kwargs: null,
    worker: null,
    retries: null,
    queue: null,
  }
}

const GET_OPTIONS: ReadonlySet<string> = new Set([
  'timeout',
  'signal',
  'propagate',
  'interval',
  'followParents',
])

/** A misspelt timeout would wait for ever. */
function checkGetOptions(options: unknown): void {
  if (typeof options !== 'object' || options === null) {
    throw invalidArgument(`get() takes options such as { timeout: 10 }, not ${String(options)}`)
  }
  const unknown = Object.keys(options).find((name) => !GET_OPTIONS.has(name))
  if (unknown !== undefined) {
    throw invalidArgument(`get() has no option '${unknown}'; it has ${[...GET_OPTIONS].join(', ')}`)
  }
  const { timeout } = options as GetOptions
  if (timeout === undefined || timeout === null) return
  if (typeof timeout !== 'number' || !(timeout >= 0)) {
    throw invalidArgument(`get(): timeout must be a number of seconds from 0, not ${String(timeout)}`)
  }
}

function invalidArgument(message: string): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', message)
}
