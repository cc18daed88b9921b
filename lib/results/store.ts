import type { NativeResults } from '../native.ts'
import type { Request } from '../request.ts'

/** What is known of a task: Celery's result meta, revived, in camelCase. */
export interface ResultMeta {
  readonly taskId: string
  /** PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED or a custom state. */
  readonly status: string
  /** The result; the meta of a custom state; for FAILURE, RETRY and REVOKED Celery's form of an exception. */
  readonly result: unknown
  readonly traceback: string | null
  /** Results of the tasks that this one sent, as `[[id, parent], children]`. */
  readonly children: readonly unknown[] | null
  /** ISO 8601; null until the state is final. */
  readonly dateDone: string | null
  readonly parentId: string | null
  readonly groupId: string | null
  /** With `resultExtended` only, as are those that follow. */
  readonly name: string | null
  readonly args: unknown
  readonly kwargs: unknown
  readonly worker: string | null
  readonly retries: number | null
  readonly queue: string | null
}

/** What to store for a task. */
export interface StateUpdate {
  readonly taskId: string
  readonly state: string
  /** The result; for FAILURE, RETRY and REVOKED an error or Celery's form of one. */
  readonly result: unknown
  readonly traceback?: string | null
  /** As tuples. */
  readonly children?: readonly unknown[] | null
  /** For group and parent ids, and the extended fields. */
  readonly request?: Request
}

/** How long to wait. */
export interface WaitOptions {
  /** Seconds; undefined is for ever. 0 looks once. */
  timeout?: number | undefined
  signal?: AbortSignal | undefined
}

/** Keeps what is known of tasks, by task id. */
export interface ResultStore {
  /** False for the store of an app without a result backend. */
  readonly enabled: boolean
  /** The core's store, for a worker that stores results by itself; null for stores in TypeScript and without one. */
  readonly native: NativeResults | null
  /** Resolves when the server has answered. */
  connect(): Promise<void>
  /** Resolves once the task's state is final. Throws TimeoutError, or the signal's reason. */
  wait(taskId: string, options?: WaitOptions): Promise<ResultMeta>
  /** The metas of these ids in order; null where nothing is stored. */
  get(taskIds: readonly string[]): Promise<Array<ResultMeta | null>>
  store(update: StateUpdate): Promise<void>
  forget(taskIds: readonly string[]): Promise<void>
  /** Removes what is older than `resultExpires` where the store does not do so by itself; says how many. */
  cleanup(): Promise<number>
  close(): Promise<void>
}

/** States after which nothing more comes. */
export const READY_STATES: ReadonlySet<string> = new Set(['SUCCESS', 'FAILURE', 'REVOKED'])
/** States whose result is an exception. */
export const EXCEPTION_STATES: ReadonlySet<string> = new Set(['RETRY', 'FAILURE', 'REVOKED'])
/** States whose exception `get()` throws. */
export const PROPAGATE_STATES: ReadonlySet<string> = new Set(['FAILURE', 'REVOKED'])
