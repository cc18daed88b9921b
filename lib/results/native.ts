import { CeleriacError, TimeoutError } from '../errors.ts'
import { call, callAsync, Calls, rethrown, openNativeResults } from '../native.ts'
import { encodeJson } from '../serialization/encode.ts'
import { revive } from '../serialization/revive.ts'
import { onAbort } from './abort.ts'
import { exceptionDocument } from './exception.ts'
import {
  EXCEPTION_STATES,
  READY_STATES,
  type ResultMeta,
  type ResultStore,
  type StateUpdate,
  type WaitOptions,
} from './store.ts'
import type { NativeResults, NativeResultsOptions, Report } from '../native.ts'

/** Opens the core's side of a result store; another one in tests. */
export type OpenResults = (options: NativeResultsOptions, report: Report) => NativeResults

/** What of the settings a store goes by. */
export interface StorePolicy {
  /** `resultExpires` in seconds; null or 0 keeps results. */
  readonly expires: number | null
  /** `resultExtended`. */
  readonly extended: boolean
}

/** A result store of the core, opened on first use. The core reconnects by itself. */
export class NativeResultStore implements ResultStore {
  readonly enabled = true
  readonly #options: NativeResultsOptions
  readonly #policy: () => StorePolicy
  readonly #open: OpenResults
  readonly #calls = new Calls()
  #native: NativeResults | undefined
  #closing: Promise<void> | undefined

  constructor(
    options: NativeResultsOptions,
    policy: () => StorePolicy,
    open: OpenResults = openNativeResults,
  ) {
    this.#options = options
    this.#policy = policy
    this.#open = open
  }

  get native(): NativeResults {
    if (this.#closing !== undefined) throw new CeleriacError('ERR_CELERIAC_CLOSED', 'the app is closed')
    this.#native ??= this.#open(this.#options, this.#calls.report)
    return this.#native
  }

  connect(): Promise<void> {
    return callAsync('results.connect', () => this.native.connect())
  }

  async wait(taskId: string, options: WaitOptions = {}): Promise<ResultMeta> {
    const { timeout, signal } = options
    signal?.throwIfAborted()
    if (timeout !== undefined && timeout <= 0) return this.#lookOnce(taskId)
    let number = -1
    const waiting = this.#calls.make<unknown>(undefined, (given) => {
      number = given
      this.native.wait(given, taskId)
    })
    const stop = (reason: unknown): void => {
      if (this.#calls.cancel(number, reason)) call('results.cancelWait', () => this.native.cancelWait(number))
    }
    const timer = timeout === undefined ? undefined : setLongTimeout(() => stop(TIMED_OUT), timeout * 1000)
    const keepGoing = signal === undefined ? undefined : onAbort(signal, stop)
    try {
      return readMeta((await waiting) as string)
    } catch (error) {
      // Made here, after the await, so that the stack names who waits.
      throw error === TIMED_OUT ? timedOut(taskId, timeout ?? 0) : rethrown(error)
    } finally {
      timer?.clear()
      keepGoing?.()
    }
  }

  async #lookOnce(taskId: string): Promise<ResultMeta> {
    const [meta] = await this.get([taskId])
    if (meta === null || meta === undefined || !READY_STATES.has(meta.status)) throw timedOut(taskId, 0)
    return meta
  }

  async get(taskIds: readonly string[]): Promise<Array<ResultMeta | null>> {
    const documents = await callAsync('results.get', () => this.native.get([...taskIds]))
    return documents.map((document) => (document === null ? null : readMeta(document)))
  }

  async store(update: StateUpdate): Promise<void> {
    const { expires, extended } = this.#policy()
    const document = encodeJson(documentOf(update, extended), 'result')
    await callAsync('results.store', () => this.native.store(document, expires ? expires * 1000 : null))
  }

  async forget(taskIds: readonly string[]): Promise<void> {
    await callAsync('results.forget', () => this.native.forget([...taskIds]))
  }

  async cleanup(): Promise<number> {
    const { expires } = this.#policy()
    return expires ? callAsync('results.cleanup', () => this.native.cleanup(expires * 1000)) : 0
  }

  close(): Promise<void> {
    this.#closing ??= this.#end()
    return this.#closing
  }

  async #end(): Promise<void> {
    const native = this.#native
    if (native === undefined) return
    await callAsync('results.close', () => native.close())
    this.#calls.failAll(
      new CeleriacError('ERR_CELERIAC_CLOSED', 'the app was closed while the result was waited for'),
    )
  }
}

const TIMED_OUT = Symbol('timed out')

/** The result meta of a document from the core. */
export function readMeta(document: string): ResultMeta {
  const raw = JSON.parse(document) as Record<string, unknown>
  const meta = (raw['tagged'] === true ? revive(raw) : raw) as Record<string, never>
  return {
    taskId: meta['task_id'] as unknown as string,
    status: meta['status'] as unknown as string,
    result: meta['result'] ?? null,
    traceback: meta['traceback'] ?? null,
    children: meta['children'] ?? null,
    dateDone:
      meta['date_done'] === undefined || meta['date_done'] === null ? null : String(meta['date_done']),
    parentId: meta['parent_id'] ?? null,
    groupId: meta['group_id'] ?? null,
    name: meta['name'] ?? null,
    args: meta['args'] ?? null,
    kwargs: meta['kwargs'] ?? null,
    worker: meta['worker'] ?? null,
    retries: meta['retries'] ?? null,
    queue: meta['queue'] ?? null,
  }
}

/** The document to store for an update, under Celery's names. */
export function documentOf(update: StateUpdate, extended: boolean): Record<string, unknown> {
  const { taskId, state, result, traceback = null, children = null, request } = update
  const isException = EXCEPTION_STATES.has(state) && result instanceof Error
  const document: Record<string, unknown> = {
    task_id: taskId,
    status: state,
    result: isException ? exceptionDocument(result) : result,
    traceback,
    children,
  }
  if (request === undefined) return document
  if (request.group !== null) document['group_id'] = request.group
  if (request.parentId !== null) document['parent_id'] = request.parentId
  if (!extended) return document
  const stamps = Object.fromEntries(
    (request.stampedHeaders ?? []).map((name) => [name, request.stamps?.[name]]),
  )
  return {
    ...document,
    name: request.task,
    args: request.args,
    kwargs: request.kwargs,
    worker: request.hostname,
    retries: request.retries,
    queue: request.deliveryInfo.routingKey,
    ...(request.stampedHeaders === null ? {} : { stamped_headers: request.stampedHeaders, ...stamps }),
  }
}

function timedOut(taskId: string, timeout: number): TimeoutError {
  return new TimeoutError(`task ${taskId} was not ready after ${timeout} s; it was not ended by that`)
}

/** A timer without setTimeout's limit of 24.8 days, where it would fire at once. */
function setLongTimeout(fire: () => void, milliseconds: number): { clear(): void } {
  const limit = 2 ** 31 - 1
  let timer: NodeJS.Timeout
  const start = (left: number): void => {
    timer = left > limit ? setTimeout(() => start(left - limit), limit) : setTimeout(fire, left)
  }
  start(milliseconds)
  return { clear: () => clearTimeout(timer) }
}
