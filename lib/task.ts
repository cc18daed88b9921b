import { currentOptions } from './annotations.ts'
import type { Celery } from './app.ts'
import type { ApplyAsyncOptions, WireOptions } from './call-options.ts'
import { readOptions } from './call-options.ts'
import { Signature, type SignatureInit } from './canvas/signature.ts'
import { currentTask, runAsCurrentTask } from './current-task.ts'
import { runEagerly } from './eager.ts'
import { TaskPredicate } from './errors.ts'
import { bindArguments, parseParameters, type Parameter, rebindArguments } from './parameters.ts'
import { Request } from './request.ts'
import type { AsyncResult, EagerResult } from './result.ts'
import { TaskContext } from './task-context.ts'
import type { AnyTaskOptions, ErrorClass, TaskOptions } from './task-options.ts'

/** Any task. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- each task has arguments of its own
export type AnyTask = Task<any, any>

/** Every end of an argument list: what `task.s` may be given. */
export type Suffix<Args extends unknown[]> = Args extends [unknown?, ...infer Rest]
  ? number extends Args['length']
    ? Args | unknown[]
    : Args extends []
      ? []
      : Args | Suffix<Rest>
  : Args

/** What of `Args` comes before `Given`, which is an end of it. */
export type Before<Args extends unknown[], Given extends unknown[]> = number extends Args['length']
  ? Args
  : Required<Args> extends [...infer Missing, ...{ [K in keyof Given]: unknown }]
    ? Given extends Args
      ? Missing | []
      : Missing
    : Args

/** The body of a task, self first when it is bound. */
export type TaskBody = (...args: never[]) => unknown

/** A task is a function: calling it runs the body here. */
// The constructor of the class gives a function, so the two really are one.
// oxlint-disable-next-line typescript/no-unsafe-declaration-merging
export interface Task<Args extends unknown[], Return> {
  (...args: Args): Return
}

/**
 * A registered task. Calling it runs the body here and now; `delay` and `applyAsync` have a worker run it. Made by
 * `app.task`.
 */
export class Task<Args extends unknown[] = unknown[], Return = unknown> {
  /** Name in the registry and on the wire. */
  declare readonly name: string
  readonly app!: Celery
  /** The options that the task was made with, before `taskAnnotations`. */
  readonly givenOptions!: Readonly<AnyTaskOptions>
  /** The function itself; a bound one takes the context first. */
  readonly body!: TaskBody
  /** Declared parameters; null when keyword arguments come as a last object argument. */
  readonly parameters!: readonly Parameter[] | null
  /** Whether the body takes the context first. */
  readonly bound!: boolean

  /** `app` may be a function that tells which app it is at the time. */
  constructor(app: Celery | (() => Celery), name: string, options: AnyTaskOptions, body: TaskBody) {
    const callable = function (...args: Args): Return {
      return task.callDirectly(args)
    }
    const task = Object.setPrototypeOf(callable, new.target.prototype) as Task<Args, Return>
    const bound = options.bind ?? false
    const fields = {
      name,
      givenOptions: options,
      body,
      bound,
      parameters: parametersOf(options.params, body, bound, name),
    }
    for (const [key, value] of Object.entries(fields))
      Object.defineProperty(task, key, { value, configurable: true })
    Object.defineProperty(task, 'app', typeof app === 'function' ? { get: app } : { value: app })
    return task
  }

  /** The options of the task: those it was made with, and what `taskAnnotations` says of it. */
  get options(): Readonly<AnyTaskOptions> {
    return currentOptions(this.app.conf, this, this.givenOptions)
  }

  /** How often it may be retried; null is without limit. */
  get maxRetries(): number | null {
    return this.options.maxRetries === undefined ? 3 : this.options.maxRetries
  }

  /** Seconds. */
  get defaultRetryDelay(): number {
    return this.options.defaultRetryDelay ?? 180
  }

  /** Whether results are not stored: the option, else `taskIgnoreResult`. */
  get ignoreResult(): boolean {
    return this.options.ignoreResult ?? this.app.conf.taskIgnoreResult
  }

  /** Whether the message is acknowledged after the body: the option, else `taskAcksLate`. */
  get acksLate(): boolean {
    return this.options.acksLate ?? this.app.conf.taskAcksLate
  }

  /** Whether STARTED is stored: the option, else `taskTrackStarted`. */
  get trackStarted(): boolean {
    return this.options.trackStarted ?? this.app.conf.taskTrackStarted
  }

  /** The option, else `taskStoreErrorsEvenIfIgnored`. */
  get storeErrorsEvenIfIgnored(): boolean {
    return this.options.storeErrorsEvenIfIgnored ?? this.app.conf.taskStoreErrorsEvenIfIgnored
  }

  /** Hard limit in seconds: the option, else `taskTimeLimit`. */
  get timeLimit(): number | null {
    return this.options.timeLimit ?? this.app.conf.taskTimeLimit
  }

  /** Soft limit in seconds: the option, else `taskSoftTimeLimit`. */
  get softTimeLimit(): number | null {
    return this.options.softTimeLimit ?? this.app.conf.taskSoftTimeLimit
  }

  /** Whether `error` is one of `throws`: expected, so logged in one line. */
  expects(error: unknown): boolean {
    return isAnyOf(error, this.options.throws)
  }

  /** Has a worker run the task. Resolves once the broker has the message. */
  delay(...args: Args): Promise<AsyncResult<Awaited<Return>>> {
    return this.app.sendFromTask<Awaited<Return>>(this, args)
  }

  /** Has a worker run the task, with options. Resolves once the broker has the message. */
  applyAsync(args?: Readonly<Args> | [], options?: ApplyAsyncOptions): Promise<AsyncResult<Awaited<Return>>> {
    return this.app.sendFromTask<Awaited<Return>>(this, args ?? [], options)
  }

  /**
   * {@link delay} for many calls, each with the arguments of one: `add.delayMany([[1, 2], [3, 4]])`. All are checked and encoded
   * before the first is sent, and go together. Resolves, in their order, once the broker has all of them; rejects with
   * {@link SendManyError}, which says which were not sent and has the results of the others.
   */
  delayMany(calls: Iterable<Readonly<Args>>): Promise<Array<AsyncResult<Awaited<Return>>>> {
    return this.app.sendManyFromTask<Awaited<Return>>(this, calls)
  }

  /** {@link delayMany} with the options of {@link applyAsync}, the same for all; `taskId` is none of them. */
  applyAsyncMany(
    calls: Iterable<Readonly<Args> | []>,
    options?: Omit<ApplyAsyncOptions, 'taskId'>,
  ): Promise<Array<AsyncResult<Awaited<Return>>>> {
    return this.app.sendManyFromTask<Awaited<Return>>(this, calls, options)
  }

  /** Runs the task here as a worker would, retries and callbacks included. Never rejects: the result tells. */
  apply(
    args?: Readonly<Args> | [],
    options: ApplyAsyncOptions & { throw?: boolean } = {},
  ): Promise<EagerResult<Awaited<Return>>> {
    const { kwargs, throw: throws, ...rest } = options
    return this.applyWire(args ?? [], kwargs ?? {}, readOptions(rest), throws)
  }

  /** {@link apply} with options under Celery's names. */
  applyWire(
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    options: WireOptions,
    throws?: boolean,
  ): Promise<EagerResult<Awaited<Return>>> {
    return runEagerly<Awaited<Return>>(this, args, kwargs, options, throws)
  }

  /** A signature with these arguments; those still missing go before them when it is called. */
  s<Given extends Suffix<Args>>(...args: Given): Signature<Before<Args, Given>, Return> {
    return this.signature({ args }) as Signature<Before<Args, Given>, Return>
  }

  /** A signature that ignores arguments given later. */
  si(...args: Args): Signature<[], Return> {
    return this.signature({ args, immutable: true }) as Signature<[], Return>
  }

  /** A signature with arguments and options. */
  signature(init: SignatureInit = {}): Signature<Args, Return> {
    return new Signature<Args, Return>(this.app, this.name, init)
  }

  /** {@link signature}. */
  subtask(init: SignatureInit = {}): Signature<Args, Return> {
    return this.signature(init)
  }

  /** The result of the task of this id. */
  AsyncResult(taskId: string): AsyncResult<Awaited<Return>> {
    return this.app.AsyncResult<Awaited<Return>>(taskId)
  }

  /**
   * The arguments of the body for a message's: with `params`, keyword arguments find their places and a wrong call is
   * a TypeError in Python's words; without, they come as a last object argument. The context of a bound task is not
   * among them.
   */
  bindArguments(args: readonly unknown[], kwargs: Readonly<Record<string, unknown>>): unknown[] {
    return bindArguments(this.name, this.parameters, args, kwargs)
  }

  /** The arguments of a retry: new ones where given, inherited ones that they do not replace. */
  rebind(
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    newArgs?: readonly unknown[],
    newKwargs?: Readonly<Record<string, unknown>>,
  ): { args: readonly unknown[]; kwargs: Readonly<Record<string, unknown>> } {
    return rebindArguments(this.parameters, args, kwargs, newArgs, newKwargs)
  }

  /**
   * Runs the body for a message, as the current task, with `autoretryFor`. What it throws says what came of it:
   * Retry, Ignore, Reject, or a failure.
   */
  async run(
    context: TaskContext,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
  ): Promise<Awaited<Return>> {
    return this.start(context, args, kwargs)
  }

  /** {@link run} for whoever does without a promise where the body does: then it gives the result, or throws, at once. */
  start(
    context: TaskContext,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
  ): Awaited<Return> | Promise<Awaited<Return>> {
    const body = this.body as (...args: unknown[]) => Return
    const bound = this.bindArguments(args, kwargs)
    let returned: Return
    try {
      returned = runAsCurrentTask(context, () => (this.bound ? body(context, ...bound) : body(...bound)))
      if (!isThenable(returned)) return returned as Awaited<Return>
    } catch (thrown) {
      throw endOf(context, thrown)
    }
    return resultOf(context, returned)
  }

  /** Runs the body with no message at all: what calling the task does. */
  callDirectly(args: readonly unknown[]): Return {
    const body = this.body as (...args: unknown[]) => Return
    const request = new Request('', this.name, args, {}, {}, { calledDirectly: true })
    const context = new TaskContext(this.app, this, request, { outer: currentTask() })
    return runAsCurrentTask(context, () => (this.bound ? body(context, ...args) : body(...args)))
  }

  toString(): string {
    return `<Task: ${this.name}>`
  }
}

// Celery's names come first: `apply` here is the task's, not the function's.
Object.setPrototypeOf(Task.prototype, Function.prototype)

function parametersOf(
  params: readonly string[] | null | undefined,
  ...rest: [body: TaskBody, bound: boolean, task: string]
): Parameter[] | null {
  return params === undefined || params === null ? null : parseParameters(params, ...rest)
}

function isThenable(value: unknown): boolean {
  const type = typeof value
  if ((type !== 'object' && type !== 'function') || value === null) return false
  return typeof (value as { then?: unknown }).then === 'function'
}

async function resultOf<Return>(context: TaskContext, returned: Return): Promise<Awaited<Return>> {
  try {
    return await returned
  } catch (thrown) {
    throw endOf(context, thrown)
  }
}

/** What a task ends with whose body throws this. */
function endOf(context: TaskContext, thrown: unknown): unknown {
  const error = reasonOf(context, thrown)
  return (context.task.options.autoretryFor ?? null) === null ? error : afterAutoretry(context, error)
}

/** Seconds until retry number `retries + 1` (`celery.utils.time.get_exponential_backoff_interval`). */
export function backoff(
  options: Pick<TaskOptions, 'retryBackoff' | 'retryBackoffMax' | 'retryJitter'>,
  retries: number,
  random: () => number = Math.random,
): number {
  const factor = options.retryBackoff === true ? 1 : Math.trunc(Math.max(1, Number(options.retryBackoff)))
  const countdown = Math.min(options.retryBackoffMax ?? 600, factor * 2 ** retries)
  const chosen = (options.retryJitter ?? true) ? Math.floor(random() * (countdown + 1)) : countdown
  return Math.max(0, chosen)
}

function isAnyOf(error: unknown, classes: ErrorClass | readonly ErrorClass[] | null | undefined): boolean {
  if (classes === undefined || classes === null) return false
  return (Array.isArray(classes) ? (classes as readonly ErrorClass[]) : [classes as ErrorClass]).some(
    (one) => error instanceof one,
  )
}

/** What aborted APIs throw says nothing of why: the signal's reason does, such as SoftTimeLimitExceeded. */
function reasonOf(context: TaskContext, error: unknown): unknown {
  if (!(error instanceof Error) || error.name !== 'AbortError') return error
  const { signal } = context
  return signal.aborted ? (signal.reason as unknown) : error
}

/** What to throw for an error of a body: itself, or the Retry that `autoretryFor` makes of it. */
function afterAutoretry(context: TaskContext, error: unknown): unknown {
  const { options } = context.task
  if (
    error instanceof TaskPredicate ||
    isAnyOf(error, options.dontAutoretryFor) ||
    !isAnyOf(error, options.autoretryFor)
  ) {
    return error
  }
  try {
    return context.retry({
      ...options.retryKwargs,
      ...(options.retryBackoff ? { countdown: backoff(options, context.request.retries) } : {}),
      ...(context.overrideMaxRetries === undefined ? {} : { maxRetries: context.overrideMaxRetries }),
      exc: error,
    })
  } catch (thrown) {
    return thrown
  }
}
