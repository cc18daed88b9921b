import type { Celery } from '../app.ts'
import { CeleriacError, Ignore, Reject, Retry, SoftTimeLimitExceeded } from '../errors.ts'
import { getLogger } from '../log/logger.ts'
import { pythonRepr } from '../native.ts'
import type { PreparedMessage } from '../prepare.ts'
import { type Delivery, Request, type SignatureDict } from '../request.ts'
import { exceptionDocument } from '../results/exception.ts'
import { encodeJson } from '../serialization/encode.ts'
import { revive } from '../serialization/revive.ts'
import { TaskContext, type RetryMessage } from '../task-context.ts'
import type { AnyTask } from '../task.ts'
import { Disposition, type Settlement } from './settlement.ts'

/** What a delivery needs to run. */
export interface RunEnvironment {
  readonly app: Celery
  /** Node name of the worker. */
  readonly hostname: string
  /** Soft limit in seconds for tasks that have none of their own (`--soft-time-limit`). */
  readonly softTimeLimit: number | null
  /** Takes the outcome. The handlers after it run once this returned. */
  settle(settlement: Settlement): void
}

/** A task that runs here. */
export class RunningTask {
  readonly context: TaskContext
  readonly tag: number
  /** Set when a revoke with `terminate` asked it to stop: what it throws then is no failure. */
  terminated = false

  constructor(context: TaskContext, tag: number) {
    this.context = context
    this.tag = tag
  }
}

const trace = getLogger('celery.app.trace')
const requestLog = getLogger('celery.worker.request')

/**
 * Runs one delivery to its settlement (`celery.app.trace.build_tracer`). Never rejects. `begin` gets the running task
 * before its body does.
 *
 * The handlers `onSuccess`, `onFailure`, `onRetry` and `afterReturn` run after the settlement was handed to the core, which
 * stores the result and then acknowledges: Celery calls them after storing, too.
 */
export async function runTask(
  environment: RunEnvironment,
  delivery: Delivery,
  begin: (running: RunningTask) => void = () => {},
): Promise<void> {
  await new TaskRun(environment, delivery, begin).run()
}

class TaskRun {
  readonly #environment: RunEnvironment
  readonly #task: AnyTask
  readonly #context: TaskContext
  readonly #running: RunningTask
  readonly #args: readonly unknown[]
  readonly #kwargs: Readonly<Record<string, unknown>>
  readonly #start = performance.now()

  constructor(environment: RunEnvironment, delivery: Delivery, begin: (running: RunningTask) => void) {
    const [tag, name, , args, kwargs, tagged, wire] = delivery
    if (tagged) for (const part of [args, kwargs, wire]) revive(part)
    this.#environment = environment
    this.#task = environment.app.taskNamed(name)
    this.#args = args
    this.#kwargs = kwargs
    const request = Request.fromDelivery(delivery, environment.hostname)
    this.#context = new TaskContext(environment.app, this.#task, request)
    this.#running = new RunningTask(this.#context, tag)
    begin(this.#running)
  }

  async run(): Promise<void> {
    const limit = this.#startSoftLimit()
    let error: unknown
    try {
      const { beforeStart } = this.#task.options
      if (beforeStart !== undefined) {
        await beforeStart.call(this.#context, this.#request.id, this.#args, this.#kwargs)
      }
      const result: unknown = await this.#task.run(this.#context, this.#args, this.#kwargs)
      clearTimeout(limit)
      const settlement = this.#success(result)
      this.#environment.settle(settlement)
      await this.#afterSuccess(result, settlement.result)
      return
    } catch (thrown) {
      clearTimeout(limit)
      error = thrown
    }
    await this.#end(error)
  }

  get #request(): Request {
    return this.#context.request
  }

  #startSoftLimit(): NodeJS.Timeout | undefined {
    const limit = this.#request.softTimeLimit ?? this.#task.softTimeLimit ?? this.#environment.softTimeLimit
    if (limit === null) return undefined
    return setTimeout(() => {
      requestLog.warning(`Soft time limit (${limit}s) exceeded for ${this.#title}`, this.#about)
      this.#context.abort(new SoftTimeLimitExceeded(`SoftTimeLimitExceeded(${limit})`))
    }, limit * 1000)
  }

  #success(result: unknown): Settlement {
    return this.#settlement(Disposition.ack, 'SUCCESS', encodeJson(result ?? null, 'the result'), null, [
      ...this.#context.outbox,
      ...this.#followers(result),
    ])
  }

  /** The messages of callbacks, then of the rest of a chain, each with the result as its first argument. */
  #followers(result: unknown): PreparedMessage[] {
    const { callbacks, chain } = this.#request
    const messages = (callbacks ?? []).map((callback) => this.#follow(callback, [result]))
    const next = chain?.at(-1)
    if (next !== undefined) messages.push(this.#follow(next, [result], { chain: chain?.slice(0, -1) }))
    return messages
  }

  #follow(signature: SignatureDict, args: unknown[], options: Record<string, unknown> = {}): PreparedMessage {
    const { id, rootId, deliveryInfo } = this.#request
    const inherited =
      this.#environment.app.conf.taskInheritParentPriority && deliveryInfo.priority !== null
        ? { priority: deliveryInfo.priority }
        : {}
    return this.#environment.app.prepareSignature(signature, args, {
      ...inherited,
      ...options,
      parent_id: id,
      root_id: rootId,
    })
  }

  async #afterSuccess(result: unknown, text: string): Promise<void> {
    if (trace.isEnabledFor('INFO')) {
      const seconds = (performance.now() - this.#start) / 1000
      const repr = pythonRepr(text, this.#task.options.resultreprMaxsize ?? 1024)
      trace.info(`Task ${this.#title} succeeded in ${seconds}s: ${repr}`, this.#about)
    }
    const { onSuccess, afterReturn } = this.#task.options
    const id = this.#request.id
    if (onSuccess !== undefined) {
      const handler = onSuccess as (...args: unknown[]) => unknown
      await this.#handle('onSuccess', () => handler.call(this.#context, result, id, this.#args, this.#kwargs))
    }
    if (afterReturn !== undefined) await this.#handleReturn('SUCCESS', result)
  }

  /** What was thrown decides what becomes of the message. */
  async #end(error: unknown): Promise<void> {
    if (error instanceof Ignore) {
      this.#settle(Disposition.ack, null, 'null', null, this.#context.outbox)
      return trace.info(`Task ${this.#title} ignored`, this.#about)
    }
    if (error instanceof Reject) return this.#reject(error)
    if (error instanceof Retry) return this.#retry(error)
    if (this.#running.terminated) return this.#revoked()
    return this.#fail(error)
  }

  #reject(error: Reject): void {
    const reason = error.reason instanceof Error ? error.reason.message : String(error.reason)
    trace.warning(`Task ${this.#title} reject requeue=${error.requeue}: ${reason}`, this.#about)
    if (error.requeue) return this.#settle(Disposition.requeue, null, 'null', null, [])
    this.#settle(Disposition.reject, 'FAILURE', documentText(error), null, [])
  }

  async #retry(error: Retry): Promise<void> {
    let message: PreparedMessage | null | undefined
    try {
      // A Retry that a body made by itself, without `self.retry`, means the same.
      const retry =
        error.sending === undefined ? this.#context.retry({ exc: error.error, throw: false }) : error
      if (retry !== error) this.#context.outbox.pop()
      message = (retry.sending as RetryMessage).prepared
    } catch (failure) {
      return this.#fail(failure)
    }
    const cause = error.error ?? error
    const publish = message === null || message === undefined ? [] : [message]
    this.#settle(Disposition.ack, 'RETRY', documentText(cause), stackOf(cause), [
      ...this.#context.outbox,
      ...publish,
    ])
    trace.info(`Task ${this.#title} retry: ${error.message}`, this.#about)
    const { onRetry } = this.#task.options
    if (onRetry !== undefined) {
      const id = this.#request.id
      await this.#handle('onRetry', () => onRetry.call(this.#context, cause, id, this.#args, this.#kwargs))
    }
  }

  #revoked(): void {
    const document = {
      exc_type: 'TaskRevokedError',
      exc_message: ['terminated'],
      exc_module: 'celery.exceptions',
    }
    this.#settle(Disposition.ack, 'REVOKED', JSON.stringify(document), null, [])
    trace.info(`Task ${this.#title} terminated by a revoke`, this.#about)
  }

  async #fail(error: unknown): Promise<void> {
    const stack = stackOf(error)
    let publish: PreparedMessage[] = []
    try {
      publish = this.#errbackMessages()
    } catch (failure) {
      trace.error(`Task ${this.#title}: an error callback cannot be sent: ${describe(failure)}`, this.#about)
    }
    const keeps = this.#task.acksLate && this.#acknowledgesFailure === false
    const disposition = keeps ? Disposition.reject : Disposition.ack
    this.#settle(disposition, 'FAILURE', documentText(error), stack, [...this.#context.outbox, ...publish])
    if (this.#task.expects(error))
      trace.info(`Task ${this.#title} raised expected: ${describe(error)}`, this.#about)
    else
      trace.error(
        `Task ${this.#title} raised unexpected: ${describe(error)}\n${stack ?? ''}`.trimEnd(),
        this.#about,
      )
    await this.#callErrbacks(error, stack)
    const { onFailure, afterReturn } = this.#task.options
    if (onFailure !== undefined) {
      const id = this.#request.id
      await this.#handle('onFailure', () =>
        onFailure.call(this.#context, error, id, this.#args, this.#kwargs),
      )
    }
    if (afterReturn !== undefined) await this.#handleReturn('FAILURE', error)
  }

  /** `acks_on_failure`, or the setting for both. */
  get #acknowledgesFailure(): boolean {
    const { options } = this.#task
    const { conf } = this.#environment.app
    return options.acksOnFailure ?? options.acksOnFailureOrTimeout ?? conf.taskAcksOnFailureOrTimeout
  }

  /** Error callbacks that are functions here, with more than one parameter, are called here; others are sent. */
  #isCalledHere(signature: SignatureDict): AnyTask | undefined {
    const task = this.#environment.app.tasks.get(signature.task)
    const stored = signature.immutable ? 0 : signature.args.length
    return task !== undefined && !task.bound && task.body.length - stored > 1 ? task : undefined
  }

  #errbackMessages(): PreparedMessage[] {
    const sent = (this.#request.errbacks ?? []).filter((errback) => this.#isCalledHere(errback) === undefined)
    return sent.map((errback) => this.#follow(errback, [this.#request.id]))
  }

  async #callErrbacks(error: unknown, stack: string | null): Promise<void> {
    for (const errback of this.#request.errbacks ?? []) {
      const task = this.#isCalledHere(errback)
      if (task === undefined) continue
      try {
        await task.callDirectly([this.#request, error, stack, ...errback.args])
      } catch (failure) {
        trace.error(`Errback ${errback.task} raised an exception: ${describe(failure)}`, this.#about)
      }
    }
  }

  async #handleReturn(state: string, result: unknown): Promise<void> {
    const { afterReturn } = this.#task.options
    const id = this.#request.id
    await this.#handle('afterReturn', () =>
      afterReturn?.call(this.#context, state, result, id, this.#args, this.#kwargs),
    )
  }

  /** A handler that throws changes nothing: the task has ended. */
  async #handle(name: string, work: () => unknown): Promise<void> {
    try {
      await work()
    } catch (error) {
      trace.error(
        `Task ${this.#title}: ${name} raised an exception: ${describe(error)}\n${stackOf(error) ?? ''}`,
        this.#about,
      )
    }
  }

  #settle(
    disposition: Disposition,
    state: string | null,
    result: string,
    traceback: string | null,
    publish: readonly PreparedMessage[],
  ): void {
    this.#environment.settle(this.#settlement(disposition, state, result, traceback, publish))
  }

  #settlement(
    disposition: Disposition,
    state: string | null,
    result: string,
    traceback: string | null,
    publish: readonly PreparedMessage[],
  ): Settlement {
    const children = this.#request.children.map((child) => child.asTuple())
    return { tag: this.#running.tag, disposition, state, result, traceback, children, publish }
  }

  get #title(): string {
    return `${this.#request.shadow ?? this.#task.name}[${this.#request.id}]`
  }

  /** Whom a line of the log is about. */
  get #about(): { taskId: string; taskName: string } {
    return { taskId: this.#request.id, taskName: this.#task.name }
  }
}

function documentText(error: unknown): string {
  // A result that has no JSON form is an error of kombu's on Python's side.
  if (error instanceof CeleriacError && error.code === 'ERR_CELERIAC_ENCODE') {
    return encodeJson(
      { exc_type: 'EncodeError', exc_message: [error.message], exc_module: 'kombu.exceptions' },
      'exception',
    )
  }
  return encodeJson(exceptionDocument(error), 'exception')
}

function stackOf(error: unknown): string | null {
  return error instanceof Error ? (error.stack ?? null) : null
}

/** An exception as Python prints it. */
function describe(error: unknown): string {
  const { exc_type: type, exc_message: message } = exceptionDocument(error)
  return `${type}(${message.map((part) => (typeof part === 'string' ? `'${part.replaceAll("'", "\\'")}'` : String(part))).join(', ')})`
}
