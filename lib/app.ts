import { randomUUID } from 'node:crypto'

import { BrokerConnection } from './broker.ts'
import { brokerOptions } from './config/broker-options.ts'
import { type ApplyAsyncOptions, readOptions, taskIdOf, type WireOptions } from './call-options.ts'
import { type AnySignature, maybeSignature, Signature, type SignatureInit } from './canvas/signature.ts'
import { type ConfigOptions, Settings } from './config/conf.ts'
import type { SettingsInput } from './config/settings.ts'
import { Control } from './control.ts'
import { currentTask, currentWorkerTask } from './current-task.ts'
import { DeadLetters } from './dead-letters.ts'
import { CeleriacError, NotRegistered } from './errors.ts'
import { rethrown } from './native.ts'
import { MessagePreparer, type PlainRoute, type PreparedMessage } from './prepare.ts'
import type { ChildResult, SignatureDict } from './request.ts'
import { AsyncResult, type EagerResult } from './result.ts'
import { openResultStore, resultsAreMessages } from './results/registry.ts'
import type { ResultStore } from './results/store.ts'
import type { Router } from './routing.ts'
import { prepareAll, type SendFailure, SendManyError } from './send-many.ts'
import { decodeJson } from './serialization/revive.ts'
import { encodeJson, encodeTagged } from './serialization/encode.ts'
import { joinApps, leaveApps, type SharedDefinition } from './shared-task.ts'
import { type AnyTask, Task, type TaskBody } from './task.ts'
import type { RetryMessage, TaskContext } from './task-context.ts'
import type { AnyTaskOptions, TaskOptions } from './task-options.ts'
import { checkTaskOptions } from './task-options-check.ts'

/** What an app is made with: any setting, in either spelling, and these short names. */
export type CeleryOptions = SettingsInput & {
  /** URL of the broker: `brokerUrl`. */
  broker?: string | readonly string[] | undefined
  /** URL of the result backend: `resultBackend`. */
  backend?: string | undefined
  /** Modules that a worker imports when it starts. */
  include?: readonly string[] | undefined
}

/** Tells an app from any other object, also one of another copy of celeriac in the process. */
export const APP_BRAND: unique symbol = Symbol.for('celeriac.app') as typeof APP_BRAND

/** An app: settings, tasks, and a connection to broker and result backend, opened on first use. */
export class Celery {
  /** First part of the names of tasks that have none of their own. */
  readonly main: string
  /** Settings by Celery's names, in camelCase or as Celery spells them. */
  readonly conf: Settings
  /** The registered tasks by name. */
  readonly tasks = new Map<string, AnyTask>()
  /** Id of this app: the property `reply_to` of its messages. */
  readonly oid: string = randomUUID()
  /** The connection to the broker, opened on first use. */
  readonly broker: BrokerConnection
  readonly control = new Control(this)
  /** Messages that no worker could handle. */
  readonly deadLetters: DeadLetters
  readonly [APP_BRAND] = true
  readonly #preparer: MessagePreparer
  #backend: ResultStore | undefined
  /** Null once tasks can be sent; undefined before that was looked at. */
  #listening: Promise<void> | null | undefined
  #closing: Promise<void> | undefined
  readonly #beforeClose = new Set<() => Promise<void>>()

  constructor(name?: string, options?: CeleryOptions)
  constructor(options?: CeleryOptions)
  constructor(name: string | CeleryOptions = 'celeriac', options: CeleryOptions = {}) {
    const { broker, backend, ...settings } = typeof name === 'string' ? options : name
    this.main = typeof name === 'string' ? name : 'celeriac'
    this.conf = new Settings(settings as SettingsInput)
    if (broker !== undefined) this.conf.update({ brokerUrl: broker })
    if (backend !== undefined) this.conf.update({ resultBackend: backend })
    this.broker = new BrokerConnection(() => brokerOptions(this.conf, this.oid))
    this.deadLetters = new DeadLetters(this.broker)
    this.#preparer = new MessagePreparer(this.conf, this.broker)
    joinApps(this)
  }

  /** The result store, opened on first use. */
  get backend(): ResultStore {
    if (this.#backend === undefined) {
      if (this.#closing !== undefined) throw new CeleriacError('ERR_CELERIAC_CLOSED', 'the app is closed')
      this.#backend = openResultStore(this.conf, this.oid)
    }
    return this.#backend
  }

  /** Where messages go, by the settings as they are now. */
  get router(): Router {
    return this.#preparer.router
  }

  /** The task that runs here; undefined outside of a task. */
  get currentTask(): TaskContext | undefined {
    return currentTask()
  }

  /** Like {@link currentTask}, passing over tasks that were called like functions. */
  get currentWorkerTask(): TaskContext | undefined {
    return currentWorkerTask()
  }

  /** Registers a task whose body gets the running task first (`bind: true`). */
  task<Args extends unknown[], Return>(
    options: TaskOptions<Return> & { bind: true },
    body: (self: TaskContext, ...args: Args) => Return,
  ): Task<Args, Return>
  /** Registers a task. Without a name it has the app's, a dot and the function's. */
  task<Args extends unknown[], Return>(
    options: TaskOptions<Return> & { bind?: false | undefined },
    body: (...args: Args) => Return,
  ): Task<Args, Return>
  task<Args extends unknown[], Return>(body: (...args: Args) => Return): Task<Args, Return>
  task(first: TaskOptions<never> | TaskBody, second?: TaskBody): AnyTask {
    const [options, body] = typeof first === 'function' ? [{}, first] : [first as AnyTaskOptions, second]
    if (typeof body !== 'function') {
      throw new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', 'app.task needs the function of the task')
    }
    const checked = checkTaskOptions(options)
    return this.registerTask(new Task(this, this.#nameOf(checked, body), checked, body))
  }

  /** Registers a task that was made by hand; ERR_CELERIAC_DUPLICATE_TASK when its name is taken. */
  registerTask<T extends AnyTask>(task: T): T {
    if (this.tasks.has(task.name)) {
      throw new CeleriacError(
        'ERR_CELERIAC_DUPLICATE_TASK',
        `two tasks are called ${task.name}: give one of them another name`,
      )
    }
    this.tasks.set(task.name, task)
    return task
  }

  /** Registers a shared task; a task of the app's own of that name goes before it. */
  addSharedTask({ name, options, body }: SharedDefinition): void {
    if (!this.tasks.has(name)) this.registerTask(new Task(this, name, options, body))
  }

  /** The registered task of that name; throws NotRegistered. */
  taskNamed(name: string): AnyTask {
    const task = this.tasks.get(name)
    if (task === undefined) throw new NotRegistered(`no task is registered as ${name}`)
    return task
  }

  /** Sends a task by name, whether it is registered here or not. Resolves once the broker has the message. */
  async sendTask<T = unknown>(
    name: string,
    args?: readonly unknown[] | null,
    options?: ApplyAsyncOptions | null,
  ): Promise<AsyncResult<T>> {
    const { kwargs, ...rest } = options ?? {}
    if (this.conf.taskAlwaysEager) {
      process.emitWarning('taskAlwaysEager has no effect on sendTask', {
        type: 'CeleriacWarning',
        code: 'CELERIAC_ALWAYS_EAGER_IGNORED',
      })
    }
    return this.#send<T>(name, args ?? [], kwargs ?? {}, readOptions(rest), this.tasks.get(name), true)
  }

  /** A signature of a task by name. */
  signature(name: string, init: SignatureInit = {}): Signature {
    return new Signature(this, name, init)
  }

  /** A signature of what may be one already, or a dict that travelled; null stays null. */
  maybeSignature(
    value: AnySignature | Readonly<Partial<SignatureDict>> | null | undefined,
  ): AnySignature | null {
    return maybeSignature(value, this)
  }

  /** The result of the task of this id. */
  AsyncResult<T = unknown>(taskId: string): AsyncResult<T> {
    return new AsyncResult<T>(this, taskId)
  }

  /** Takes the settings of an object, such as the exports of a module. See {@link Settings.configFromObject}. */
  configFromObject(values: object, options?: ConfigOptions): void {
    this.conf.configFromObject(values, options)
  }

  /** Sets defaults that give way to every other setting. */
  addDefaults(values: SettingsInput): void {
    this.conf.addDefaults(values)
  }

  /** What `task.delay` and `task.applyAsync` come to. */
  sendFromTask<T>(
    task: AnyTask,
    args: readonly unknown[],
    options?: ApplyAsyncOptions | null,
  ): Promise<AsyncResult<T>> {
    // Not async: this is the hot path, and each promise counts.
    try {
      const plain = this.#plainRoute(task, options)
      if (plain === undefined) return this.#sendWithOptions<T>(task, args, options ?? {})
      const message = plainMessage(task, plain, args)
      const result = new AsyncResult<T>(this, message.taskId, null, plain.ignoreResult)
      return this.#publish(message, result).then(undefined, rethrow)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** What `task.delayMany` and `task.applyAsyncMany` come to. */
  async sendManyFromTask<T>(
    task: AnyTask,
    calls: Iterable<readonly unknown[]>,
    options?: ApplyAsyncOptions | null,
  ): Promise<Array<AsyncResult<T>>> {
    const { kwargs: given, ...rest } = options ?? {}
    if ((rest.taskId ?? null) !== null) {
      throw new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', 'one taskId cannot be that of many tasks')
    }
    if (this.conf.taskAlwaysEager)
      return Promise.all(Array.from(calls, (args) => this.#sendWithOptions<T>(task, args, options ?? {})))
    const plain = this.#plainRoute(task, options)
    const [kwargs, wire] = [given ?? {}, readOptions(rest)]
    const prepare = (args: readonly unknown[]): PreparedMessage => {
      if (plain !== undefined) return plainMessage(task, plain, args)
      checkCall(task, args, kwargs)
      const input = { name: task.name, args, kwargs, options: wire, task, strict: true }
      return this.#preparer.prepare(input, randomUUID())
    }
    const messages = prepareAll(calls, prepare)
    const results = messages.map(
      ({ taskId, ignoreResult }) => new AsyncResult<T>(this, taskId, null, ignoreResult ?? false),
    )
    const children = childrenToBe(wire)
    children?.push(...results)
    await this.#listen()
    const failures: SendFailure[] = []
    await this.broker.publishMany(messages, (index, error) => failures.push({ index, error }))
    if (failures.length === 0) return results
    const failed = new Set<ChildResult | undefined>(failures.map(({ index }) => results[index]))
    if (children !== null) children.splice(0, children.length, ...children.filter((one) => !failed.has(one)))
    throw new SendManyError(
      failures.map(({ index, error }) => ({ index, error: rethrown(error) })),
      results.map((result) => (failed.has(result) ? null : result)),
    )
  }

  /** The route of a call with these options, when it says nothing more than its arguments. */
  #plainRoute(task: AnyTask, options: ApplyAsyncOptions | null | undefined): PlainRoute | undefined {
    const hasMore = options !== undefined && options !== null
    if (hasMore || currentWorkerTask() !== undefined) return undefined
    return this.#preparer.plainRoute(task)
  }

  async #sendWithOptions<T>(
    task: AnyTask,
    args: readonly unknown[],
    { kwargs: given, ...rest }: ApplyAsyncOptions,
  ): Promise<AsyncResult<T>> {
    const kwargs = given ?? {}
    checkCall(task, args, kwargs)
    const wire = readOptions(rest)
    if (this.conf.taskAlwaysEager) return this.#sendEagerly<T>(task, args, kwargs, wire)
    return this.#send<T>(task.name, args, kwargs, wire, task, true)
  }

  /** What `signature.applyAsync` comes to; options under Celery's names. */
  async sendSignature<T>(
    name: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    options: WireOptions,
  ): Promise<AsyncResult<T>> {
    const task = this.tasks.get(name)
    if (task !== undefined && this.conf.taskAlwaysEager)
      return this.#sendEagerly<T>(task, args, kwargs, options)
    return this.#send<T>(name, args, kwargs, options, task, false)
  }

  /**
   * Encodes a call without sending it: for messages that a worker sends as part of a settlement. Options are in
   * either spelling; unknown ones become message properties, as in signatures.
   */
  prepare(
    name: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    options: ApplyAsyncOptions | WireOptions = {},
    task: AnyTask | undefined = this.tasks.get(name),
  ): PreparedMessage {
    const wire = readOptions(options)
    const taskId = taskIdOf(wire)
    return this.#preparer.prepare({ name, args, kwargs, options: wire, task, strict: false }, taskId)
  }

  /** {@link prepare} for a signature that is called with these arguments before its own. */
  prepareSignature(
    signature: AnySignature | Readonly<Partial<SignatureDict>>,
    args: readonly unknown[] = [],
    options: ApplyAsyncOptions | WireOptions = {},
  ): PreparedMessage {
    const one = maybeSignature(signature, this) as AnySignature
    const merged = one.merge(args, {}, readOptions(options))
    return this.prepare(one.task, merged.args, merged.kwargs, merged.options)
  }

  /** The next attempt of a running task (`Task.signature_from_request`): same id, same place, what travelled with it. */
  prepareRetry(
    context: TaskContext,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    options: ApplyAsyncOptions,
  ): RetryMessage {
    const { request, task } = context
    const wire: WireOptions = { ...request.asExecutionOptions(), ...readOptions(options) }
    wire['ignore_result'] ??= request.ignoreResult ?? task.ignoreResult
    const { exchange, routingKey, priority } = request.deliveryInfo
    // One that RabbitMQ had held comes from where it was held last, and with a key that says for how long.
    const wasDelayed = exchange !== null && /^celery_delayed_(?:\d+|delivery)$/.test(exchange)
    if (priority !== null) wire['priority'] = priority
    if (wire['queue'] === undefined && wire['exchange'] === undefined && wire['routing_key'] === undefined) {
      if (wasDelayed && request.queue !== null)
        Object.assign(wire, this.#preparer.router.afterDelay(request.queue, routingKey))
      else if (exchange === '' && routingKey !== null) wire['queue'] = routingKey
      else if (exchange !== null && routingKey !== null)
        Object.assign(wire, { exchange, routing_key: routingKey })
      else if (request.queue !== null) wire['queue'] = request.queue
    }
    const prepared = request.isEager ? null : this.prepare(task.name, args, kwargs, wire, task)
    return { args, kwargs, options: wire, prepared }
  }

  /**
   * Has {@link close} do `work` first and wait for it, while the connections are still there: workers stop. What it
   * rejects with, `close` rejects with. Gives a function that takes that back.
   */
  onClose(work: () => Promise<void>): () => void {
    this.#beforeClose.add(work)
    return () => {
      this.#beforeClose.delete(work)
    }
  }

  /**
   * Stops the app's workers, settles what is under way, then closes the connections. Waits for results end with ERR_CELERIAC_CLOSED. Calling it
   * twice is fine.
   */
  close(): Promise<void> {
    this.#closing ??= this.#end()
    return this.#closing
  }

  /** {@link close}: `await using app = new Celery(…)`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #end(): Promise<void> {
    leaveApps(this)
    const ended = await Promise.allSettled([...this.#beforeClose].map((work) => work()))
    const closed = await Promise.allSettled([this.broker.close(), this.#backend?.close()])
    const failed = [...ended, ...closed].find((result) => result.status === 'rejected')
    if (failed !== undefined) throw failed.reason
  }

  #publish<T>(message: PreparedMessage, value: T): Promise<T> {
    return this.#listening === null
      ? this.broker.publish(message, value)
      : this.#listen().then(() => this.broker.publish(message, value))
  }

  /** With `rpc://` the queue that results come to is there before the first task is sent (`celery.backends.rpc`). */
  async #listen(): Promise<void> {
    if (this.#listening === null) return
    this.#listening ??= resultsAreMessages(this.conf) ? this.backend.connect() : Promise.resolve()
    try {
      await this.#listening
    } catch (error) {
      this.#listening = undefined
      throw error
    }
    this.#listening = null
  }

  async #send<T>(
    name: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    options: WireOptions,
    task: AnyTask | undefined,
    strict: boolean,
  ): Promise<AsyncResult<T>> {
    const taskId = taskIdOf(options)
    const message = this.#preparer.prepare({ name, args, kwargs, options, task, strict }, taskId)
    const result = new AsyncResult<T>(this, taskId, null, message.ignoreResult ?? false)
    const children = childrenToBe(options)
    // Before the wait for the broker: a body need not wait for what it sends.
    children?.push(result)
    try {
      await this.#publish(message, result)
    } catch (error) {
      const index = children?.indexOf(result) ?? -1
      if (index >= 0) children?.splice(index, 1)
      throw rethrown(error)
    }
    return result
  }

  /** `taskAlwaysEager`: what is sent and what arrives is the same as by a broker. */
  async #sendEagerly<T>(
    task: AnyTask,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    options: WireOptions,
  ): Promise<EagerResult<T>> {
    const arrived = roundTrip([args, kwargs]) as [unknown[], Record<string, unknown>]
    return (await task.applyWire(arrived[0], arrived[1], options)) as EagerResult<T>
  }

  #nameOf(options: Pick<TaskOptions, 'name'>, body: TaskBody): string {
    if (options.name) return options.name
    if (body.name !== '') return `${this.main}.${body.name}`
    throw new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', 'a task needs a name: app.task({ name: … }, …)')
  }
}

/** The message of a call that says nothing but its arguments. */
function plainMessage(task: AnyTask, plain: PlainRoute, args: readonly unknown[]): PreparedMessage {
  if (task.parameters !== null) checkCall(task, args, {})
  const { route, ignoreResult } = plain
  return {
    route,
    taskId: randomUUID(),
    args: encodeJson(args, 'args'),
    kwargs: '{}',
    options: null,
    ignoreResult,
  }
}

/** Where the results of what is sent with these options are noted: in the running task, or nowhere. */
function childrenToBe(options: WireOptions): ChildResult[] | null {
  const context = currentWorkerTask()
  const isChild =
    context !== undefined && options['add_to_parent'] !== false && (context.task.options.trail ?? true)
  return isChild ? context.request.children : null
}

function rethrow(error: unknown): never {
  throw rethrown(error)
}

/** Refuses a call that cannot be bound to `params`, as Celery's `typing`. */
function checkCall(task: AnyTask, args: readonly unknown[], kwargs: Readonly<Record<string, unknown>>): void {
  if (task.parameters !== null && (task.options.typing ?? true)) task.bindArguments(args, kwargs)
}

function roundTrip(value: unknown): unknown {
  return decodeJson(encodeTagged(value, 'arguments'), true)
}
