import type { ApplyAsyncOptions } from './call-options.ts'
import type { TaskContext } from './task-context.ts'

/** A class of errors, as `autoretryFor` and `throws` take them. */
export type ErrorClass = abstract new (...args: never[]) => unknown

/** Arguments for {@link TaskContext.retry}; times as in {@link ApplyAsyncOptions}. */
export interface RetryOptions extends Omit<ApplyAsyncOptions, 'kwargs' | 'retries' | 'taskId'> {
  /** Other positional arguments for the next attempt. */
  args?: readonly unknown[] | undefined
  /** Other keyword arguments for the next attempt. */
  kwargs?: Readonly<Record<string, unknown>> | undefined
  /** Why: stored with the state RETRY, and thrown when no attempt is left. */
  exc?: unknown
  /** Overrides the task's limit for this attempt; null is no limit. */
  maxRetries?: number | null | undefined
}

/**
 * What `app.task` takes: Celery's task attributes in camelCase. Handlers get the running task as `this`, so write
 * them as methods. Durations are seconds. Null is the default, but for `maxRetries`. Beside these, `app.task` takes
 * `bind`, which is no part of this type because it changes the type of the body.
 */
export interface TaskOptions<Return = unknown> {
  /** Name in the registry and on the wire. Default: the app's name, a dot and the function's name. */
  name?: string | null | undefined
  /**
   * Names of the body's parameters, so that keyword arguments find their places. A question mark at the end makes one
   * optional: `['url', 'timeout?']`. Without this, keyword arguments arrive together as a last object argument.
   */
  params?: readonly string[] | null | undefined
  /** Check calls against `params` before they are sent. Default true (`strict_typing`). */
  typing?: boolean | null | undefined
  /** How often a task may be retried; null is without limit. Default 3. */
  maxRetries?: number | null | undefined
  /** Seconds until a retry that names no time. Default 180. */
  defaultRetryDelay?: number | null | undefined
  /** Calls per second, or `'10/s'`, `'10/m'`, `'10/h'`. Default `taskDefaultRateLimit`. */
  rateLimit?: number | string | null | undefined
  /** Store no result. Default `taskIgnoreResult`. */
  ignoreResult?: boolean | null | undefined
  /** Remember the results of tasks that a body sends, as `children`. Default true. */
  trail?: boolean | null | undefined
  /** Send task events for this task. Default true. */
  sendEvents?: boolean | null | undefined
  /** Store failures although results are ignored. Default `taskStoreErrorsEvenIfIgnored`. */
  storeErrorsEvenIfIgnored?: boolean | null | undefined
  /** Store results of `apply()` too. Default `taskStoreEagerResult`. */
  storeEagerResult?: boolean | null | undefined
  /** Default `taskSerializer`; only `json` so far. */
  serializer?: string | null | undefined
  /** Default `taskCompression`; none so far. */
  compression?: string | null | undefined
  /** Seconds after which the task is ended by force. Default `taskTimeLimit`. */
  timeLimit?: number | null | undefined
  /** Seconds after which the task's `signal` fires. Default `taskSoftTimeLimit`. */
  softTimeLimit?: number | null | undefined
  /** Store STARTED when a worker begins. Default `taskTrackStarted`. */
  trackStarted?: boolean | null | undefined
  /** Acknowledge after the body instead of before it. Default `taskAcksLate`. */
  acksLate?: boolean | null | undefined
  /** With late acks: acknowledge (rather than reject) after a failure. */
  acksOnFailure?: boolean | null | undefined
  /** With late acks: acknowledge (rather than reject) after a time limit. */
  acksOnTimeout?: boolean | null | undefined
  /** Both of the two before. */
  acksOnFailureOrTimeout?: boolean | null | undefined
  /** Default `taskRejectOnWorkerLost`. */
  rejectOnWorkerLost?: boolean | null | undefined
  /** Default `taskRetryOnWorkerLost`. */
  retryOnWorkerLost?: boolean | null | undefined
  /** Expected errors: FAILURE, but logged in one line without a stack. */
  throws?: ErrorClass | readonly ErrorClass[] | null | undefined
  /** Default of the call option `expires`. */
  expires?: ApplyAsyncOptions['expires']
  /** Default of the call option `priority`. */
  priority?: number | null | undefined
  /** Default of the call option `queue`. */
  queue?: string | null | undefined
  /** Default of the call option `exchange`. */
  exchange?: string | null | undefined
  /** Default of the call option `exchangeType`. */
  exchangeType?: string | null | undefined
  /** Default of the call option `routingKey`. */
  routingKey?: string | null | undefined
  /** Default of the call option `deliveryMode`. */
  deliveryMode?: ApplyAsyncOptions['deliveryMode'] | null
  /** Longest result that a log line shows, in characters. Default 1024. */
  resultreprMaxsize?: number | undefined
  /** A name to show for one call instead of the task's. */
  shadowName?:
    | ((
        args: readonly unknown[],
        kwargs: Readonly<Record<string, unknown>>,
        options: object,
      ) => string | null | undefined)
    | undefined
  /** Errors after which the task is retried by itself. */
  autoretryFor?: ErrorClass | readonly ErrorClass[] | null | undefined
  /** Errors of those that are failures all the same. */
  dontAutoretryFor?: ErrorClass | readonly ErrorClass[] | null | undefined
  /** What `autoretryFor` passes to `retry`. */
  retryKwargs?: RetryOptions | null | undefined
  /** Wait exponentially longer, times this factor (true is 1). Default false. */
  retryBackoff?: boolean | number | null | undefined
  /** Longest wait of `retryBackoff`. Default 600. */
  retryBackoffMax?: number | null | undefined
  /** Wait a random part of that. Default true. */
  retryJitter?: boolean | null | undefined
  /** Before the body. */
  beforeStart?(
    this: TaskContext,
    taskId: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
  ): unknown
  /** After the body returned. An error thrown here is logged and changes nothing. */
  onSuccess?(
    this: TaskContext,
    result: NoInfer<Awaited<Return>>,
    taskId: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
  ): unknown
  /** After a failure. */
  onFailure?(
    this: TaskContext,
    error: unknown,
    taskId: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
  ): unknown
  /** When the task is to be retried; `error` is why. */
  onRetry?(
    this: TaskContext,
    error: unknown,
    taskId: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
  ): unknown
  /** After the task in any state but RETRY, IGNORED and REJECTED; `result` is the result or the error. */
  afterReturn?(
    this: TaskContext,
    state: string,
    result: unknown,
    taskId: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
  ): unknown
}

/** The options of any task, bound or not. */
export interface AnyTaskOptions<Return = unknown> extends TaskOptions<Return> {
  /** Whether the running task comes as the first argument. Default false. */
  bind?: boolean | null | undefined
}
