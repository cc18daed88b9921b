import type { Celery } from '../app.ts'
import { runAsCurrentTask } from '../current-task.ts'
import { CeleriacError, Ignore, NotRegistered, Reject, Retry, SoftTimeLimitExceeded } from '../errors.ts'
import { stackOf } from '../log/record.ts'
import { type Delivery, Request, type SignatureDict } from '../request.ts'
import { exceptionDocument } from '../results/exception.ts'
import { encodeJson } from '../serialization/encode.ts'
import { revive } from '../serialization/revive.ts'
import type { AnyTask } from '../task.ts'
import { type RetryMessage, TaskContext } from '../task-context.ts'
import { afterSuccess, callErrback, type Errbacks, errbacksOf } from './follow-up.ts'
import { RunningTask } from './running-task.ts'
import { outcomes, type Settlement, type Settler } from './settle.ts'
import type { TaskLog } from './task-log.ts'

/** What a runner needs of its worker. */
export interface RunnerOptions {
  readonly app: Celery
  /** Node name of the worker. */
  readonly hostname: string
  readonly settler: Settler
  readonly log: TaskLog
  /** Seconds for tasks whose message and options name no soft limit; null is none. */
  readonly softTimeLimit: number | null
}

/** A result, or what follows it, could not be sent as JSON (`kombu.exceptions.EncodeError`). */
class EncodeError extends CeleriacError {
  static readonly module = 'kombu.exceptions'
  override readonly name = 'EncodeError'

  constructor(cause: CeleriacError) {
    super('ERR_CELERIAC_ENCODE', cause.message, { cause })
  }
}

/** A revoke has ended the task. */
class Terminated extends CeleriacError {
  override readonly name = 'TaskRevokedError'

  constructor(message = 'terminated') {
    super('ERR_CELERIAC_TASK_REVOKED', message)
  }
}

/**
 * Runs deliveries with the semantics of `celery.app.trace`: each comes to one settlement, which holds what is to be
 * published, what is to be stored and what becomes of the message. Handlers (`onSuccess` and so on) are called when the
 * settlement has been handed over: what they throw is logged and changes nothing.
 */
export class TaskRunner {
  readonly #options: RunnerOptions
  readonly #running = new Map<number, RunningTask>()

  constructor(options: RunnerOptions) {
    this.#options = options
  }

  /** Tasks whose bodies have begun and whose outcome is open. */
  get running(): ReadonlyMap<number, RunningTask> {
    return this.#running
  }

  /** Runs a delivery to its end, handlers included; undefined when it has come to it already. Never throws nor rejects. */
  run(delivery: Delivery): Promise<void> | undefined {
    const task = this.#options.app.tasks.get(delivery[1])
    return task !== undefined && !delivery[5] && !hasHandlers(task)
      ? this.#runPlainly(delivery, task)
      : this.#handOver(delivery, (task, running) => this.#run(delivery, task, running))
  }

  /** {@link run} without a promise for what needs none: most time that a short task costs goes into those. */
  #runPlainly(delivery: Delivery, task: AnyTask): Promise<void> | undefined {
    const [tag, name, id] = delivery
    const running = new RunningTask(tag, id, name, task)
    this.#running.set(tag, running)
    try {
      const context = this.#context(delivery, task, running)
      const { request } = context
      this.#startSoftTimer(context, running)
      let settlement: Omit<Settlement, 'tag'> | string
      try {
        const result: unknown = task.start(context, request.args, request.kwargs)
        if (result instanceof Promise) {
          return this.#guard(running, () => this.#await(context, running, result))
        }
        settlement = isPlainSuccess(context) ? resultText(result) : successOf(context, result)
      } catch (error) {
        return this.#guard(running, () => this.#ended(context, running, reasonOf(error, running)))
      }
      running.stopTimer()
      this.#succeeded(context, running, settlement)
      this.#running.delete(tag)
      return undefined
    } catch (error) {
      return this.#guard(running, () => Promise.reject(error))
    }
  }

  /** Waits for the result of a body that has no handlers. */
  async #await(context: TaskContext, running: RunningTask, result: Promise<unknown>): Promise<void> {
    let settlement: Omit<Settlement, 'tag'> | string
    try {
      const value = await result
      settlement = isPlainSuccess(context) ? resultText(value) : successOf(context, value)
    } catch (error) {
      await this.#ended(context, running, reasonOf(error, running))
      return
    }
    running.stopTimer()
    this.#succeeded(context, running, settlement)
  }

  /** Hands over a success, a plain one as its result; false where the task had an outcome already. */
  #succeeded(
    { request, task }: TaskContext,
    running: RunningTask,
    settlement: Omit<Settlement, 'tag'> | string,
  ): boolean {
    const { log, settler } = this.#options
    if (typeof settlement !== 'string') {
      if (!this.#settle(running, settlement)) return false
    } else {
      if (running.settled) return false
      settler.succeed(running.tag, settlement)
      running.settled = true
    }
    if (!log.tellsSuccess) return true
    const elapsed = performance.now() - running.startedAt
    const result = typeof settlement === 'string' ? settlement : (settlement.result ?? 'null')
    log.succeeded(request, elapsed, result, task.options.resultreprMaxsize ?? 1024)
    return true
  }

  /**
   * Fails a delivery with that, without running it: its worker was lost too often. Errbacks and handlers are called as for any
   * failure; the message goes to the dead list. Never rejects.
   */
  lose(delivery: Delivery, error: unknown): Promise<void> {
    return this.#handOver(
      delivery,
      (task, running) =>
        this.#failed(this.#context(delivery, task, running), running, error, outcomes.poison),
      error,
    )
  }

  async #handOver(
    delivery: Delivery,
    work: (task: AnyTask, running: RunningTask) => Promise<void>,
    lost?: unknown,
  ): Promise<void> {
    const [tag, name, id] = delivery
    const task = this.#options.app.tasks.get(name)
    const running = new RunningTask(tag, id, name, task)
    this.#running.set(tag, running)
    await this.#guard(running, async () => {
      if (task === undefined) throw new NotRegistered(name)
      if (this.#read(delivery, running, lost)) await work(task, running)
    })
  }

  /** Whatever `work` throws, the task comes to its end. */
  async #guard(running: RunningTask, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      this.#options.log.internalError(running.id, running.name, error)
      this.#settle(running, { outcome: outcomes.reject, ...failureOf(error) })
    } finally {
      running.stopTimer()
      this.#running.delete(running.tag)
    }
  }

  /** Ends the tasks of these ids, if they run: their signals fire, and when they throw their state is REVOKED. */
  terminate(ids: readonly string[]): void {
    const wanted = new Set(ids)
    for (const running of this.#running.values()) {
      if (!wanted.has(running.id) || running.settled) continue
      running.terminated = true
      running.abort(new Terminated())
    }
  }

  /** Fails the task of this id, if it runs, with what its body will never throw. Its message goes to the dead list. */
  fail(id: string, error: unknown): void {
    for (const running of this.#running.values()) {
      if (running.id === id) this.#settle(running, { outcome: outcomes.reject, ...failureOf(error) })
    }
  }

  /**
   * Gives up all that runs (cold shutdown): signals fire, messages that are not acknowledged go back to their queues,
   * the others get the state RETRY, as in Celery. What the bodies do from then on changes nothing.
   */
  cancelAll(reason: unknown): void {
    for (const running of this.#running.values()) {
      if (running.settled) continue
      running.abort(reason)
      if (running.acksLate) this.#settle(running, { outcome: outcomes.requeue, state: null })
      else {
        const error = new Retry('cancelled by celeriac')
        this.#settle(running, { outcome: outcomes.acknowledge, ...failureOf(error), state: 'RETRY' })
      }
    }
    this.#options.settler.flush()
  }

  async #run(delivery: Delivery, task: AnyTask, running: RunningTask): Promise<void> {
    const context = this.#context(delivery, task, running)
    const { request } = context
    this.#startSoftTimer(context, running)
    const { args, kwargs } = request
    let result: unknown
    let settlement: Omit<Settlement, 'tag'>
    try {
      const { beforeStart } = task.options
      if (beforeStart !== undefined) {
        await runAsCurrentTask(context, () => beforeStart.call(context, request.id, args, kwargs))
      }
      result = await task.run(context, args, kwargs)
      settlement = successOf(context, result)
    } catch (error) {
      await this.#ended(context, running, reasonOf(error, running))
      return
    }
    running.stopTimer()
    if (!this.#succeeded(context, running, settlement)) return
    const { onSuccess, afterReturn } = task.options
    if (onSuccess !== undefined) {
      await this.#handle(context, 'on_success', () =>
        onSuccess.call(context, result as never, request.id, args, kwargs),
      )
    }
    if (afterReturn !== undefined) {
      await this.#handle(context, 'after_return', () =>
        afterReturn.call(context, 'SUCCESS', result, request.id, args, kwargs),
      )
    }
  }

  /** Makes values of what is tagged as such; where that cannot be done the task has failed, of `lost` where that is given. */
  #read(delivery: Delivery, running: RunningTask, lost?: unknown): boolean {
    try {
      if (delivery[5]) for (const index of [3, 4, 6] as const) revive(delivery[index])
      return true
    } catch (error) {
      this.#options.log.unreadable(running.id, running.name, error)
      const outcome = lost === undefined ? outcomes.reject : outcomes.poison
      this.#settle(running, { outcome, ...failureOf(lost ?? error) })
      return false
    }
  }

  #context(delivery: Delivery, task: AnyTask, running: RunningTask): TaskContext {
    const { app, hostname } = this.#options
    const request = Request.fromDelivery(delivery, hostname)
    return new TaskContext(app, task, request, { signal: running })
  }

  /** The end of a task whose body threw. */
  async #ended(context: TaskContext, running: RunningTask, error: unknown): Promise<void> {
    running.stopTimer()
    if (running.settled) return
    const { request } = context
    const { log } = this.#options
    if (running.terminated) {
      this.#settle(running, {
        outcome: outcomes.acknowledge,
        ...failureOf(new Terminated(), false),
        state: 'REVOKED',
      })
      log.revoked(request)
    } else if (error instanceof Ignore) {
      this.#settle(running, { outcome: outcomes.acknowledge, state: null, publish: context.outbox })
      log.ignored(request)
    } else if (error instanceof Reject) this.#rejected(context, running, error)
    else if (error instanceof Retry) await this.#retried(context, running, error)
    else await this.#failed(context, running, error)
  }

  #rejected(context: TaskContext, running: RunningTask, error: Reject): void {
    // A message that nobody runs again has come to its end: a FAILURE, so that nobody waits for ever.
    this.#settle(
      running,
      error.requeue
        ? { outcome: outcomes.requeue, state: null }
        : { outcome: outcomes.reject, ...failureOf(error), publish: context.outbox },
    )
    this.#options.log.rejected(context.request, error)
  }

  async #retried(context: TaskContext, running: RunningTask, retry: Retry): Promise<void> {
    const { request, task } = context
    const next = (retry.sending as RetryMessage | undefined)?.prepared
    const hasError = retry.error !== undefined && retry.error !== null
    this.#settle(running, {
      outcome: outcomes.acknowledge,
      state: 'RETRY',
      result: hasError ? documentText(retry.error) : 'null',
      traceback: stackText(hasError ? retry.error : retry),
      children: childrenOf(context),
      publish: next === undefined || next === null ? context.outbox : [...context.outbox, next],
    })
    this.#options.log.retried(request, retry.message)
    const { onRetry } = task.options
    if (onRetry === undefined) return
    const { id, args, kwargs } = request
    await this.#handle(context, 'on_retry', () =>
      onRetry.call(context, retry.error ?? retry, id, args, kwargs),
    )
  }

  async #failed(
    context: TaskContext,
    running: RunningTask,
    error: unknown,
    outcome = outcomeOfFailure(context),
  ): Promise<void> {
    const { request, task } = context
    const { log } = this.#options
    const failure = failureOf(error)
    const errbacks = this.#errbacks(context)
    await this.#failChain(context, error, failure.traceback ?? null)
    this.#settle(running, {
      outcome,
      ...failure,
      children: childrenOf(context),
      publish: [...context.outbox, ...errbacks.messages],
    })
    log.failed(request, error, task.expects(error))
    for (const errback of errbacks.local) {
      try {
        await runAsCurrentTask(context, () => callErrback(errback, context, error, failure.traceback ?? null))
      } catch (raised) {
        log.errbackRaised(request, errback.task.name, raised)
      }
    }
    const { onFailure, afterReturn } = task.options
    const { id, args, kwargs } = request
    if (onFailure !== undefined) {
      await this.#handle(context, 'on_failure', () => onFailure.call(context, error, id, args, kwargs))
    }
    if (afterReturn !== undefined) {
      await this.#handle(context, 'after_return', () =>
        afterReturn.call(context, 'FAILURE', error, id, args, kwargs),
      )
    }
  }

  /** The errbacks; one that cannot be sent is logged, so that the failure is stored all the same. */
  #errbacks(context: TaskContext): Errbacks {
    if (context.request.errbacks === null) return { messages: [], local: [] }
    try {
      return runAsCurrentTask(context, () => errbacksOf(context))
    } catch (error) {
      this.#options.log.errbackRaised(
        context.request,
        context.request.errbacks.map((errback: Partial<SignatureDict> | null) => errback?.task).join(', '),
        error,
      )
      return { messages: [], local: [] }
    }
  }

  /** The tasks that were to follow in the chain fail with this one, or whoever waits for the last would never hear. */
  async #failChain({ request, app }: TaskContext, error: unknown, traceback: string | null): Promise<void> {
    if (request.chain === null || !app.backend.enabled) return
    // A message may hold anything there.
    const chain: ReadonlyArray<Partial<SignatureDict> | null> = request.chain
    const ids = chain.flatMap((signature) => {
      const id = signature?.options?.['task_id']
      return typeof id === 'string' ? [id] : []
    })
    const stored = ids.map((taskId) =>
      app.backend.store({ taskId, state: 'FAILURE', result: error, traceback }),
    )
    for (const outcome of await Promise.allSettled(stored)) {
      if (outcome.status === 'rejected') this.#options.log.handlerRaised(request, 'chain', outcome.reason)
    }
  }

  async #handle(context: TaskContext, name: string, handler: () => unknown): Promise<void> {
    try {
      await runAsCurrentTask(context, handler)
    } catch (error) {
      this.#options.log.handlerRaised(context.request, name, error)
    }
  }

  #startSoftTimer(context: TaskContext, running: RunningTask): void {
    const { request, task } = context
    const ofMessage = request.isPlain ? null : request.softTimeLimit
    const seconds = ofMessage ?? task.options.softTimeLimit ?? this.#options.softTimeLimit
    if (seconds === null || seconds <= 0) return
    running.startSoftTimer(seconds, () => {
      this.#options.log.softTimeLimit(request, seconds)
      running.abort(new SoftTimeLimitExceeded())
    })
  }

  /** Hands over the outcome of a task, once. False when it had one already. */
  #settle(running: RunningTask, settlement: Omit<Settlement, 'tag'>): boolean {
    if (running.settled) return false
    // In this order: what cannot be written down is not settled.
    this.#options.settler.settle({ tag: running.tag, ...settlement })
    running.settled = true
    return true
  }
}

function hasHandlers(task: AnyTask): boolean {
  const { beforeStart, onSuccess, afterReturn } = task.options
  return beforeStart !== undefined || onSuccess !== undefined || afterReturn !== undefined
}

/** Whether a success is nothing but its result. */
function isPlainSuccess({ request, sendsOn }: TaskContext): boolean {
  return request.isPlain && !request.hasChildren && !sendsOn
}

function resultText(result: unknown): string {
  try {
    return encodeJson(result, 'the result')
  } catch (error) {
    throw error instanceof CeleriacError ? new EncodeError(error) : error
  }
}

function successOf(context: TaskContext, result: unknown): Omit<Settlement, 'tag'> {
  const { request } = context
  const text = resultText(result)
  const common = { outcome: outcomes.acknowledge, state: 'SUCCESS', result: text }
  if (request.callbacks === null && request.chain === null) {
    return { ...common, children: childrenOf(context), publish: context.outbox }
  }
  const followUp = runAsCurrentTask(context, () => afterSuccess(context, result))
  if (context.task.options.trail ?? true) request.children.push(...followUp.children)
  return { ...common, children: childrenOf(context), publish: [...context.outbox, ...followUp.messages] }
}

function failureOf(
  error: unknown,
  withTraceback = true,
): { state: string; result: string; traceback: string | null } {
  return {
    state: 'FAILURE',
    result: documentText(error),
    traceback: withTraceback ? stackText(error) : null,
  }
}

/** Stored for what was thrown and cannot even be looked at, such as a proxy that throws. */
const UNPRINTABLE_ERROR = '{"exc_type":"Error","exc_message":["<unprintable>"],"exc_module":"javascript"}'

function documentText(error: unknown): string {
  try {
    return encodeJson(exceptionDocument(error), 'error')
  } catch {
    return UNPRINTABLE_ERROR
  }
}

function stackText(error: unknown): string | null {
  try {
    return stackOf(error)
  } catch {
    return null
  }
}

function childrenOf({ request }: TaskContext): string {
  const { children } = request
  return children.length === 0
    ? '[]'
    : encodeJson(
        children.map((child) => child.asTuple()),
        'children',
      )
}

/** What becomes of the message of a task that failed. */
function outcomeOfFailure({ app: { conf }, task }: TaskContext): Settlement['outcome'] {
  const { acksOnFailure, acksOnFailureOrTimeout } = task.options
  const acknowledges =
    acksOnFailure ??
    acksOnFailureOrTimeout ??
    conf.taskAcksOnFailure ??
    conf.taskAcksOnFailureOrTimeout ??
    true
  return task.acksLate && !acknowledges ? outcomes.reject : outcomes.acknowledge
}

/** What aborted APIs throw says nothing of why: the signal's reason does. */
function reasonOf(error: unknown, running: RunningTask): unknown {
  const reason = running.abortReason
  return reason !== undefined && error instanceof Error && error.name === 'AbortError' ? reason : error
}
