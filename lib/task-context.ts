import type { Celery } from './app.ts'
import type { AnyTask } from './task.ts'
import type { Request } from './request.ts'
import type { ApplyAsyncOptions } from './call-options.ts'
import type { RetryOptions } from './task-options.ts'
import type { PreparedMessage } from './prepare.ts'
import { MaxRetriesExceededError, Retry } from './errors.ts'
import { encodeJson } from './serialization/encode.ts'

/** What `Retry.sending` holds: the next attempt. */
export interface RetryMessage {
  args: readonly unknown[]
  kwargs: Readonly<Record<string, unknown>>
  /** Call options under Celery's names. */
  options: Record<string, unknown>
  /** The message, encoded; null for an eager retry, which nothing is sent for. */
  prepared: PreparedMessage | null
}

/** Makes the signal of a task. */
export interface SignalSource {
  makeSignal(): AbortSignal
}

/** The task as it runs: `self` of a bound body, `this` of a handler, and what `currentTask()` gives. */
export class TaskContext {
  readonly app: Celery
  readonly task: AnyTask
  readonly request: Request
  /** Messages that go out when this task is settled (`retry` with `throw: false`). */
  get outbox(): PreparedMessage[] {
    return (this.#outbox ??= [])
  }
  /** `maxRetries` that the body gave to `retry`; `autoretryFor` goes by it. Undefined: the task's. */
  overrideMaxRetries: number | null | undefined

  #outbox: PreparedMessage[] | undefined
  #signal: AbortSignal | SignalSource | undefined

  /** The task whose body called this one like a function; undefined when it runs for a message. */
  readonly outer: TaskContext | undefined

  constructor(
    app: Celery,
    task: AnyTask,
    request: Request,
    options: { signal?: SignalSource; outer?: TaskContext | undefined } = {},
  ) {
    this.app = app
    this.task = task
    this.request = request
    this.#signal = options.signal
    this.outer = options.outer
  }

  /**
   * Fires on revoke, soft time limit and shutdown; its `reason` says which. Made when first asked for: most bodies
   * never do.
   */
  get signal(): AbortSignal {
    const made = this.#signal
    if (made instanceof AbortSignal) return made
    return (this.#signal = made === undefined ? new AbortController().signal : made.makeSignal())
  }

  /** Whether anything is in {@link outbox}. */
  get sendsOn(): boolean {
    return this.#outbox !== undefined && this.#outbox.length > 0
  }

  /** The task's registered name. */
  get name(): string {
    return this.task.name
  }

  /**
   * Sends this task again, with the same id, and ends the attempt: throws `Retry`, so write `throw self.retry(…)` to
   * tell the compiler too. Without `countdown` and `eta` it waits for the task's `defaultRetryDelay`. With no attempt
   * left it throws `exc`, or MaxRetriesExceededError. With `throw: false` it returns the Retry, and the body goes on.
   */
  retry(options: RetryOptions & { throw: false }): Retry
  retry(options?: RetryOptions & { throw?: true }): never
  retry(options: RetryOptions & { throw?: boolean } = {}): Retry {
    const { throw: throws = true, exc, maxRetries, args: newArgs, kwargs: newKwargs, ...rest } = options
    const request = this.request
    if (maxRetries !== undefined) this.overrideMaxRetries = maxRetries
    if (request.calledDirectly) throw exc ?? new Retry('Task can be retried')
    const limit = maxRetries === undefined ? this.task.maxRetries : maxRetries
    const retries = request.retries + 1
    const countdown =
      rest.eta == null && rest.countdown == null ? this.task.defaultRetryDelay : rest.countdown
    const { args, kwargs } = this.task.rebind(request.args, request.kwargs, newArgs, newKwargs)
    if (limit !== null && retries > limit) {
      if (exc !== undefined && exc !== null) throw exc
      throw new MaxRetriesExceededError(
        `Can't retry ${this.name}[${request.id}] args:${encodeJson(args, 'args')} kwargs:${encodeJson(kwargs, 'kwargs')}`,
        args,
        kwargs,
      )
    }
    const sending = this.#prepareRetry(args, kwargs, { ...rest, countdown, retries }, exc)
    const retry = new Retry(undefined, {
      error: exc,
      when: rest.eta ?? countdown ?? null,
      isEager: request.isEager,
      sending,
    })
    if (throws) throw retry
    if (sending.prepared !== null) this.outbox.push(sending.prepared)
    return retry
  }

  /** The next attempt. Where there can be none, the error that says so has `exc` as its cause: it must not be lost. */
  #prepareRetry(
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    options: ApplyAsyncOptions,
    exc: unknown,
  ): RetryMessage {
    try {
      return this.app.prepareRetry(this, args, kwargs, options)
    } catch (error) {
      if (error instanceof Error && error !== exc && (exc ?? null) !== null) error.cause ??= exc
      throw error
    }
  }

  /** Stores a state of your own with `meta` as its result: what `AsyncResult.state` and `.info` show meanwhile. */
  async updateState(update: { state: string; meta?: unknown; taskId?: string }): Promise<void> {
    const taskId = update.taskId ?? this.request.id
    await this.app.backend.store({
      taskId,
      state: update.state,
      result: update.meta ?? null,
      request: this.request,
    })
  }
}
