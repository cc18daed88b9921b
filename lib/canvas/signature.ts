import type { Celery } from '../app.ts'
import { readOptions, taskIdOf, type WireOptions } from '../call-options.ts'
import type { ApplyAsyncOptions } from '../call-options.ts'
import { CeleriacError } from '../errors.ts'
import type { SignatureDict } from '../request.ts'
import type { AsyncResult, EagerResult } from '../result.ts'

/** A signature of any task. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- each signature has arguments of its own
export type AnySignature = Signature<any, any>

/** Options that a call must not change: it would leave a group or the stamps of others unfinished. */
const KEPT_OPTIONS = new Set(['group_id', 'stamped_headers'])

/** What a signature is made from. */
export interface SignatureInit {
  args?: readonly unknown[] | undefined
  kwargs?: Readonly<Record<string, unknown>> | undefined
  /** Options of `applyAsync`, in camelCase or Celery's spelling. */
  options?: ApplyAsyncOptions | Readonly<Record<string, unknown>> | undefined
  /** Ignores arguments that are given later, such as the result of the task before it. */
  immutable?: boolean | undefined
}

/**
 * One call of a task, to be made later or by someone else: arguments, keyword arguments and options. It travels as
 * JSON (`toJSON`) with exactly Celery's keys. `Args` are the arguments that are still missing; given late, they go
 * before those that it has.
 */
export class Signature<Args extends unknown[] = unknown[], Return = unknown> {
  readonly #app: Celery
  /** Name of the task. */
  task: string
  args: unknown[]
  kwargs: Record<string, unknown>
  /** Options of `applyAsync` under Celery's own names (`task_id`, `link_error`). */
  options: WireOptions
  /** Which primitive this is; null for a plain task. */
  subtaskType: string | null
  immutable: boolean

  constructor(app: Celery, task: string, init: SignatureInit & { subtaskType?: string | null } = {}) {
    this.#app = app
    this.task = task
    this.args = [...(init.args ?? [])]
    this.kwargs = { ...init.kwargs }
    this.options = readOptions(init.options ?? {})
    this.subtaskType = init.subtaskType ?? null
    this.immutable = init.immutable ?? false
  }

  /** The signature of a dict that travelled; ERR_CELERIAC_INVALID_ARGUMENT when it is none. */
  static fromDict(dict: Readonly<Partial<SignatureDict>>, app: Celery): Signature {
    if (typeof dict.task !== 'string') {
      throw new CeleriacError(
        'ERR_CELERIAC_INVALID_ARGUMENT',
        'a signature needs the name of a task under `task`',
      )
    }
    const signature = new Signature(app, dict.task, {
      args: dict.args,
      kwargs: dict.kwargs,
      immutable: dict.immutable,
      subtaskType: dict.subtask_type ?? null,
    })
    signature.options = { ...dict.options }
    return signature
  }

  get app(): Celery {
    return this.#app
  }

  /** The form that travels. */
  toJSON(): SignatureDict {
    return {
      task: this.task,
      args: this.args,
      kwargs: this.kwargs,
      options: this.options,
      subtask_type: this.subtaskType,
      immutable: this.immutable,
    }
  }

  /** A copy of its own; with arguments or options, one that has those too, merged as a call would. */
  clone(
    args: readonly unknown[] = [],
    options: ApplyAsyncOptions | Readonly<Record<string, unknown>> = {},
  ): Signature<Args, Return> {
    const { kwargs, wire } = splitKwargs(options)
    const merged = this.merge(args, kwargs, wire)
    const copy = new Signature<Args, Return>(this.#app, this.task, {
      args: merged.args,
      kwargs: merged.kwargs,
      immutable: this.immutable,
      subtaskType: this.subtaskType,
    })
    copy.options = copyOptions(merged.options)
    return copy
  }

  /** A copy with these parts instead of its own. */
  replace(init: Pick<SignatureInit, 'args' | 'kwargs' | 'options'>): Signature<Args, Return> {
    const copy = this.clone()
    if (init.args !== undefined) copy.args = [...init.args]
    if (init.kwargs !== undefined) copy.kwargs = { ...init.kwargs }
    if (init.options !== undefined) copy.options = readOptions(init.options)
    return copy
  }

  /** Sets options; gives the signature itself. */
  set(options: (ApplyAsyncOptions & { immutable?: boolean }) | Readonly<Record<string, unknown>>): this {
    const { immutable, ...rest } = options as { immutable?: boolean }
    if (immutable !== undefined) this.immutable = immutable
    Object.assign(this.options, readOptions(rest))
    return this
  }

  /** Makes it ignore arguments that are given later. */
  setImmutable(immutable = true): this {
    this.immutable = immutable
    return this
  }

  /** Adds a task to call with the result; gives that one. One that is there already is not added again. */
  link<Callback extends AnySignature>(callback: Callback): Callback {
    this.#append('link', callback)
    return callback
  }

  /** Adds a task to call after a failure; gives that one. */
  linkError<Errback extends AnySignature>(errback: Errback): Errback {
    this.#append('link_error', errback)
    return errback
  }

  /** {@link linkError}; gives the signature itself. */
  onError(errback: AnySignature): this {
    this.linkError(errback)
    return this
  }

  /** All that is linked for success, to any depth, this one first. */
  flattenLinks(): Array<AnySignature | SignatureDict> {
    const links = asList(this.options['link']) as Array<AnySignature | SignatureDict>
    return [this, ...links.flatMap((link) => (link instanceof Signature ? link.flattenLinks() : [link]))]
  }

  /** Fixes the task's id, so that its result can be spoken of before it is sent. */
  freeze(
    fixed: {
      taskId?: string
      groupId?: string
      groupIndex?: number
      chord?: AnySignature
      rootId?: string
      parentId?: string
    } = {},
  ): AsyncResult<Awaited<Return>> {
    const { options } = this
    const taskId = taskIdOf(options, () => taskIdOf({ task_id: fixed.taskId }))
    options['task_id'] = taskId
    if (fixed.rootId !== undefined) options['root_id'] = fixed.rootId
    if (fixed.parentId !== undefined) options['parent_id'] = fixed.parentId
    options['reply_to'] ??= this.#app.oid
    if (fixed.groupId !== undefined) options['group_id'] ??= fixed.groupId
    if (fixed.chord !== undefined) options['chord'] = fixed.chord
    if (fixed.groupIndex !== undefined) options['group_index'] = fixed.groupIndex
    return this.#app.AsyncResult<Awaited<Return>>(taskId)
  }

  /** Sends it, with these arguments before its own. */
  delay(...args: Args): Promise<AsyncResult<Awaited<Return>>> {
    return this.applyAsync(args)
  }

  /** Sends it, with these arguments before its own and these options over its own. */
  async applyAsync(
    args: readonly unknown[] = [],
    options: ApplyAsyncOptions = {},
  ): Promise<AsyncResult<Awaited<Return>>> {
    const { kwargs, wire } = splitKwargs(options)
    const merged = this.merge(args, kwargs, wire)
    return this.#app.sendSignature<Awaited<Return>>(this.task, merged.args, merged.kwargs, merged.options)
  }

  /** Runs it here, without a broker. The task must be registered. */
  async apply(
    args: readonly unknown[] = [],
    options: ApplyAsyncOptions = {},
  ): Promise<EagerResult<Awaited<Return>>> {
    const { kwargs, wire } = splitKwargs(options)
    const merged = this.merge(args, kwargs, wire)
    const task = this.#app.taskNamed(this.task)
    return (await task.applyWire(merged.args, merged.kwargs, merged.options)) as EagerResult<Awaited<Return>>
  }

  /**
   * What a call with these arguments comes to (`Signature._merge`): arguments before its own, keyword arguments and
   * options over its own. An immutable signature takes options only; `group_id` and stamps stay as they are.
   */
  merge(
    args: readonly unknown[] = [],
    kwargs: Readonly<Record<string, unknown>> = {},
    options: WireOptions = {},
  ): { args: unknown[]; kwargs: Record<string, unknown>; options: WireOptions } {
    const merged: WireOptions = { ...this.options }
    const stamped = new Set(asList(this.options['stamped_headers']))
    for (const [name, value] of Object.entries(options)) {
      const kept = (KEPT_OPTIONS.has(name) || stamped.has(name)) && name in this.options
      if (!kept && value !== undefined && value !== null) merged[name] = value
    }
    if (this.immutable) return { args: this.args, kwargs: this.kwargs, options: merged }
    return { args: [...args, ...this.args], kwargs: { ...this.kwargs, ...kwargs }, options: merged }
  }

  /** `tasks.add(2, 2)`. */
  toString(): string {
    const kwargs = Object.entries(this.kwargs).map(([name, value]) => `${name}=${show(value)}`)
    return `${this.task}(${[...this.args.map(show), ...kwargs].join(', ')})`
  }

  #append(key: 'link' | 'link_error', signature: AnySignature): void {
    const list = asList(this.options[key])
    const text = JSON.stringify(signature)
    this.options[key] = list.some((one) => one === signature || JSON.stringify(one) === text)
      ? list
      : [...list, signature]
  }
}

/** A signature as it is, a dict as a signature, null and undefined as null (`celery.canvas.maybe_signature`). */
export function maybeSignature(
  value: AnySignature | Readonly<Partial<SignatureDict>> | null | undefined,
  app: Celery,
): AnySignature | null {
  if (value === null || value === undefined) return null
  return value instanceof Signature ? value : Signature.fromDict(value, app)
}

function splitKwargs(options: ApplyAsyncOptions | Readonly<Record<string, unknown>>): {
  kwargs: Readonly<Record<string, unknown>>
  wire: WireOptions
} {
  const { kwargs, ...rest } = options as ApplyAsyncOptions
  return { kwargs: kwargs ?? {}, wire: readOptions(rest) }
}

function asList(value: unknown): unknown[] {
  if (value === undefined || value === null) return []
  return Array.isArray(value) ? value : [value]
}

function copyOptions(options: WireOptions): WireOptions {
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [name, copyValue(value)]))
}

function copyValue(value: unknown): unknown {
  if (value instanceof Signature) return value.clone()
  if (Array.isArray(value)) return value.map(copyValue)
  if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, copyValue(inner)]))
  }
  return value
}

function show(value: unknown): string {
  return typeof value === 'bigint' ? value.toString() : (JSON.stringify(value) ?? String(value))
}
