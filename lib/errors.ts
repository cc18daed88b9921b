import { inspect } from 'node:util'

/** What {@link safeText} gives for what cannot be shown at all. */
const UNPRINTABLE = '<unprintable>'

/** Any value as text, for errors and log lines: objects without a prototype, proxies and what else throws included. */
export function safeText(value: unknown): string {
  try {
    return String(value)
  } catch {
    try {
      return inspect(value)
    } catch {
      return UNPRINTABLE
    }
  }
}

/** A property of any type, also where reading it throws: then its text is that of nothing that can be shown. */
export function readSafely(object: object, key: string): unknown {
  try {
    return (object as Record<string, unknown>)[key]
  } catch {
    return UNPRINTABLE
  }
}

/** The codes that the Rust core can give; a test holds this list against the core's own. */
const CORE_CODES = [
  'ERR_CELERIAC_AUTHENTICATION_FAILED',
  'ERR_CELERIAC_BROKER_UNAVAILABLE',
  'ERR_CELERIAC_CLOSED',
  'ERR_CELERIAC_CONTENT_DISALLOWED',
  'ERR_CELERIAC_DECODE',
  'ERR_CELERIAC_ENCODE',
  'ERR_CELERIAC_INTERNAL',
  'ERR_CELERIAC_INVALID_ARGUMENT',
  'ERR_CELERIAC_INVALID_TASK',
  'ERR_CELERIAC_INVALID_URL',
  'ERR_CELERIAC_NOT_SUPPORTED',
  'ERR_CELERIAC_PUBLISH_TIMEOUT',
  'ERR_CELERIAC_REFUSED',
  'ERR_CELERIAC_RESULT_STORE_UNAVAILABLE',
  'ERR_CELERIAC_UNKNOWN_SCHEME',
  'ERR_CELERIAC_UNROUTABLE',
] as const

/** The codes of errors that arise in TypeScript. */
const LIBRARY_CODES = [
  'ERR_CELERIAC_APP_NOT_FOUND',
  'ERR_CELERIAC_DEAD_LETTER_NOT_FOUND',
  'ERR_CELERIAC_DUPLICATE_TASK',
  'ERR_CELERIAC_INVALID_SETTING',
  'ERR_CELERIAC_MAX_RETRIES_EXCEEDED',
  'ERR_CELERIAC_MODULE_NOT_FOUND',
  'ERR_CELERIAC_NATIVE_MISSING',
  'ERR_CELERIAC_NOT_ALL_SENT',
  'ERR_CELERIAC_NO_BROKER',
  'ERR_CELERIAC_NO_RESULT_BACKEND',
  'ERR_CELERIAC_NOT_REGISTERED',
  'ERR_CELERIAC_QUEUE_NOT_FOUND',
  'ERR_CELERIAC_SOFT_TIME_LIMIT',
  'ERR_CELERIAC_TASK_FAILED',
  'ERR_CELERIAC_TASK_REVOKED',
  'ERR_CELERIAC_TIMEOUT',
  'ERR_CELERIAC_UNKNOWN_SETTING',
  'ERR_CELERIAC_WORKER_LOST',
] as const

/** The codes of the Rust core, sorted. */
export const coreErrorCodes: readonly string[] = CORE_CODES

/** Every error that celeriac throws has one of these as its `code`. They are public and never change. */
export type CeleriacErrorCode = (typeof CORE_CODES)[number] | (typeof LIBRARY_CODES)[number]

const ALL_CODES: ReadonlySet<unknown> = new Set([...CORE_CODES, ...LIBRARY_CODES])

/** Whether `code` is one of celeriac's. */
export function isCeleriacErrorCode(code: unknown): code is CeleriacErrorCode {
  return ALL_CODES.has(code)
}

/** What celeriac throws; tell its errors apart by `code`. */
export class CeleriacError extends Error {
  override readonly name: string = 'CeleriacError'
  /** One of {@link CeleriacErrorCode}; says what happened and so what to do. */
  readonly code: CeleriacErrorCode

  constructor(code: CeleriacErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** What a waiting call throws when its time has passed: `code` is ERR_CELERIAC_TIMEOUT. Nothing was cancelled. */
export class TimeoutError extends CeleriacError {
  override readonly name: string = 'TimeoutError'

  constructor(message: string, options?: ErrorOptions) {
    super('ERR_CELERIAC_TIMEOUT', message, options)
  }
}

/** No task of that name is registered (`celery.exceptions.NotRegistered`). */
export class NotRegistered extends CeleriacError {
  override readonly name: string = 'NotRegistered'

  constructor(taskName: string, options?: ErrorOptions) {
    super('ERR_CELERIAC_NOT_REGISTERED', taskName, options)
  }
}

/** The worker of a task was lost, or gave it up, each time that it ran (`billiard.exceptions.WorkerLostError`). */
export class WorkerLostError extends CeleriacError {
  override readonly name: string = 'WorkerLostError'

  constructor(maxDeliveries: number) {
    super(
      'ERR_CELERIAC_WORKER_LOST',
      `each time that the task ran its worker was lost or gave it up; it is not run again, because maxDeliveries is ${maxDeliveries}`,
    )
  }
}

/** A queue is named that `taskQueues` lacks, and `taskCreateMissingQueues` is off. */
export class QueueNotFound extends CeleriacError {
  override readonly name: string = 'QueueNotFound'

  constructor(message: string, options?: ErrorOptions) {
    super('ERR_CELERIAC_QUEUE_NOT_FOUND', message, options)
  }
}

/** A task was to be retried once more than its `maxRetries` allows. */
export class MaxRetriesExceededError extends CeleriacError {
  override readonly name: string = 'MaxRetriesExceededError'
  /** The arguments that the retry would have had. */
  readonly taskArgs: readonly unknown[]
  /** The keyword arguments that the retry would have had. */
  readonly taskKwargs: Readonly<Record<string, unknown>>

  constructor(
    message: string,
    taskArgs: readonly unknown[] = [],
    taskKwargs: Readonly<Record<string, unknown>> = {},
    options?: ErrorOptions,
  ) {
    super('ERR_CELERIAC_MAX_RETRIES_EXCEEDED', message, options)
    this.taskArgs = taskArgs
    this.taskKwargs = taskKwargs
  }
}

/** The reason of a task's `signal` when its soft time limit has passed. */
export class SoftTimeLimitExceeded extends CeleriacError {
  override readonly name: string = 'SoftTimeLimitExceeded'

  constructor(message = 'SoftTimeLimitExceeded()', options?: ErrorOptions) {
    super('ERR_CELERIAC_SOFT_TIME_LIMIT', message, options)
  }
}

/** What a remote exception consists of: data from the result store, never a class that is looked up. */
export interface RemoteException {
  /** Class name of the exception, such as `ValueError`. */
  readonly type: string
  /** Module of that class, such as `builtins`; null when the sender gave none. */
  readonly module: string | null
  /** The exception's arguments as they were sent. */
  readonly args: readonly unknown[]
  /** Traceback or stack as the worker's language prints it; null when none was stored. */
  readonly traceback: string | null
  readonly taskId: string
}

/**
 * A task ended in failure somewhere, in whatever language. Tell failures apart by {@link type} and
 * {@link module}: a remote exception is data here, no class is imported or evaluated for it.
 */
export class TaskError extends CeleriacError implements RemoteException {
  override readonly name: string = 'TaskError'
  readonly type: string
  readonly module: string | null
  readonly args: readonly unknown[]
  readonly traceback: string | null
  readonly taskId: string

  constructor(
    remote: RemoteException,
    code: 'ERR_CELERIAC_TASK_FAILED' | 'ERR_CELERIAC_TASK_REVOKED' = 'ERR_CELERIAC_TASK_FAILED',
  ) {
    const text = remote.args.map(argumentText).join(', ')
    super(code, text === '' ? remote.type : `${remote.type}: ${text}`)
    this.type = remote.type
    this.module = remote.module
    this.args = remote.args
    this.traceback = remote.traceback
    this.taskId = remote.taskId
  }
}

function argumentText(arg: unknown): string {
  if (typeof arg === 'string') return arg
  try {
    return JSON.stringify(arg, replaceBigInt) ?? safeText(arg)
  } catch {
    return safeText(arg)
  }
}

function replaceBigInt(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value
}

/** The task was revoked before it ran, or ended by a revoke. */
export class TaskRevokedError extends TaskError {
  override readonly name: string = 'TaskRevokedError'

  constructor(remote: RemoteException) {
    super(remote, 'ERR_CELERIAC_TASK_REVOKED')
  }
}

/** What a task body throws to tell the worker what to do with the task; no failure. */
export abstract class TaskPredicate extends Error {
  override readonly name: string = 'TaskPredicate'
}

/** Thrown by a task body: nothing is stored, the message is acknowledged. */
export class Ignore extends TaskPredicate {
  override readonly name: string = 'Ignore'
}

/**
 * Thrown by a task body: the broker gets its message back. Without `requeue` the message is dropped (or
 * dead-lettered) and a FAILURE is stored.
 */
export class Reject extends TaskPredicate {
  override readonly name: string = 'Reject'
  readonly reason: unknown
  readonly requeue: boolean

  constructor(reason: unknown = null, options: { requeue?: boolean } = {}) {
    const requeue = options.requeue ?? false
    super(
      `reject requeue=${requeue}: ${safeText(reason instanceof Error ? readSafely(reason, 'message') : reason)}`,
    )
    this.reason = reason
    this.requeue = requeue
  }
}

/** Thrown by a task body (by `self.retry`): the task's message was sent again, its state is RETRY. */
export class Retry extends TaskPredicate {
  override readonly name: string = 'Retry'
  /** Why it is retried; undefined when no error was given. */
  readonly error: unknown
  /** Seconds from then, or the time itself; null when unknown. */
  readonly when: number | Date | string | null
  /** Whether the retry happens here, in `apply()`. */
  readonly isEager: boolean
  /** What to send; absent on a Retry that a body made by itself. The type is `RetryMessage` of lib/task-context.ts. */
  readonly sending: unknown

  constructor(
    message?: string,
    options: {
      error?: unknown
      when?: number | Date | string | null
      isEager?: boolean
      sending?: unknown
    } = {},
  ) {
    super(message ?? retryText(options.error, options.when ?? null))
    this.error = options.error
    this.when = options.when ?? null
    this.isEager = options.isEager ?? false
    this.sending = options.sending
  }
}

function retryText(error: unknown, when: number | Date | string | null): string {
  const time =
    when instanceof Date
      ? `at ${when.toISOString()}`
      : typeof when === 'number'
        ? `in ${when}s`
        : when
          ? `at ${when}`
          : ''
  const text = time === '' ? 'Retry' : `Retry ${time}`
  if (error === undefined || error === null) return text
  if (!(error instanceof Error)) return `${text}: ${safeText(error)}`
  return `${text}: ${safeText(readSafely(error, 'name'))}: ${safeText(readSafely(error, 'message'))}`
}
