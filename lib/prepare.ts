import { closest } from 'fastest-levenshtein'

import type { BrokerConnection } from './broker.ts'
import { type WireOptions, wireOptionNames } from './call-options.ts'
import type { RetryPolicyFields } from './config/types.ts'
import { isAmqp } from './config/broker-options.ts'
import type { Settings } from './config/conf.ts'
import { withCamelCaseKeys } from './config/names.ts'
import { currentWorkerTask } from './current-task.ts'
import { CeleriacError } from './errors.ts'
import { type Destination, deliveryModeNumber, isTaken, Router } from './routing.ts'
import { encodeJson } from './serialization/encode.ts'
import { defaultTimeZone, isoAfter, parseTime, timeText } from './time.ts'
import type { AnyTask } from './task.ts'
import type { NativeRoute } from './native.ts'

/** A task message, encoded: what the core's `publish` and a settlement's messages take. */
export interface PreparedMessage {
  /** Number of the route, given by {@link BrokerConnection.route}. */
  readonly route: number
  readonly taskId: string
  /** JSON array in Python's sense. */
  readonly args: string
  /** JSON object in Python's sense. */
  readonly kwargs: string
  /** JSON object: the fields of `TaskOptions` in crates/celeriac-protocol; null when there is none. */
  readonly options: string | null
  /** Whether the sender wants no result; null leaves it to the worker. */
  readonly ignoreResult: boolean | null
}

/** What calls of a task have in common that say nothing but their arguments. */
export type PlainRoute = Pick<PreparedMessage, 'route'> & { readonly ignoreResult: boolean }

/** What a message is made from. */
export interface MessageInput {
  readonly name: string
  readonly args: readonly unknown[]
  readonly kwargs: Readonly<Record<string, unknown>>
  /** Call options under Celery's names. */
  readonly options: WireOptions
  /** The task, when it is registered here: its options complete the call's. */
  readonly task: AnyTask | undefined
  /** Refuse unknown options, as those of a direct call; else they are message properties, as in a signature. */
  readonly strict: boolean
}

/** Celery's lower bound for seconds. */
const MIN_SECONDS = -2147483648

/** As much as kombu's delayed delivery can count: eight and a half years. */
const MAX_DELAY_SECONDS = 2 ** 28 - 1

/** Turns calls into messages: routing, options, encoding (`Celery.send_task`, `AMQP.as_task_v2`). */
export class MessagePreparer {
  readonly #conf: Settings
  readonly #broker: BrokerConnection
  #router: Router | undefined
  #version = -1
  #hasWarnedOfDirect = false
  /** Routes of calls without options, by task. */
  readonly #plain = new Map<AnyTask, PlainRoute>()

  constructor(conf: Settings, broker: BrokerConnection) {
    this.#conf = conf
    this.#broker = broker
  }

  /** Where messages go, by the settings as they are now. */
  get router(): Router {
    if (this.#router === undefined || this.#version !== this.#conf.version) {
      this.#router = new Router(this.#conf, () => isAmqp(this.#conf))
      this.#version = this.#conf.version
      this.#plain.clear()
    }
    return this.#router
  }

  /**
   * The route of calls of `task` that say nothing more; undefined when each call must be looked at: because a function
   * routes it, it runs here (`taskAlwaysEager`), or the task has options that are not the route's.
   */
  plainRoute(task: AnyTask): PlainRoute | undefined {
    const { router } = this
    const known = this.#plain.get(task)
    if (known !== undefined) return known
    if (this.#conf.taskAlwaysEager) return undefined
    const { options } = task
    if (router.dynamic || (options.expires ?? null) !== null || options.shadowName !== undefined)
      return undefined
    const given = readTaskOptions(task)
    const destination = router.destination(task.name, [], {}, given, task)
    if (Object.keys(destination.options).some((name) => !ROUTE_OPTIONS.has(name))) return undefined
    const { ignoreResult } = task
    const route = this.#broker.route(
      this.#route(task.name, destination, this.#traits(destination, ignoreResult)),
    )
    const plain = { route, ignoreResult }
    this.#plain.set(task, plain)
    return plain
  }

  /** The message of a call; throws for options and arguments that cannot be sent. */
  prepare(input: MessageInput, taskId: string): PreparedMessage {
    const { name, args, kwargs, task } = input
    if (!Array.isArray(args)) throw invalid(`the args of ${name} must be an array`)
    if (!isObject(kwargs)) throw invalid(`the kwargs of ${name} must be an object`)
    const given = withTaskOptions(input)
    const shadow = given['shadow'] ?? task?.options.shadowName?.(args, kwargs, given)
    const routeName = typeof given['route_name'] === 'string' ? given['route_name'] : name
    const destination = this.router.destination(routeName, args, kwargs, given, task)
    const merged = destination.options
    inheritPriority(this.#conf, merged)
    if (input.strict) refuseUnknown(name, merged)
    checkLimits(name, merged)
    const ignoreResult =
      optionalBoolean(merged, 'ignore_result') ?? (task === undefined ? null : task.ignoreResult)
    // What varies from call to call travels with the call, so that there are few routes.
    const usual = this.#traits(
      { ...destination, options: task === undefined ? {} : readTaskOptions(task) },
      task?.ignoreResult ?? null,
    )
    const own = this.#fields(name, taskId, destination, shadow)
    const place = own['delay'] === undefined ? destination : this.#delayed(destination)
    const route = this.#broker.route(this.#route(name, place, usual))
    const fields = { ...differences(this.#traits(destination, ignoreResult), usual), ...own }
    return {
      route,
      taskId,
      args: encodeJson(args, 'args'),
      kwargs: encodeJson(kwargs, 'kwargs'),
      options: Object.keys(fields).length === 0 ? null : encodeJson(fields, 'options'),
      ignoreResult,
    }
  }

  #traits(
    { options, deliveryMode }: Pick<Destination, 'options' | 'deliveryMode'>,
    ignoreResult: boolean | null,
  ): Traits {
    return {
      ignoreResult,
      timeLimit: optionalSeconds(options, 'time_limit'),
      softTimeLimit: optionalSeconds(options, 'soft_time_limit'),
      priority: priorityOf(options['priority'] ?? 0),
      deliveryMode:
        deliveryModeNumber(options['delivery_mode']) ??
        deliveryMode ??
        deliveryModeNumber(this.#conf.taskDefaultDeliveryMode) ??
        2,
    }
  }

  #route(task: string, destination: Destination, traits: Traits): NativeRoute {
    const conf = this.#conf
    const { options } = destination
    const serializer = options['serializer'] ?? conf.taskSerializer
    if (serializer !== 'json' && serializer !== 'application/json') {
      throw notSupported(
        `task ${task} is to be sent with the serializer '${String(serializer)}'; only json is there`,
      )
    }
    const compression = options['compression'] ?? conf.taskCompression
    if (compression !== null && compression !== undefined) {
      throw notSupported(
        `task ${task} is to be compressed with '${String(compression)}', which is not there yet`,
      )
    }
    const policy = {
      ...(conf.taskPublishRetryPolicy as Partial<RetryPolicyFields>),
      // Celery's default of three retries is over in half a second, which a restart of the broker takes longer than.
      ...(conf.isSet('taskPublishRetryPolicy') ? {} : { maxRetries: null }),
      ...withCamelCaseKeys((options['retry_policy'] ?? {}) as Record<string, unknown>),
    } as Partial<RetryPolicyFields>
    return {
      task,
      exchange: destination.exchange,
      exchangeType: destination.exchangeType,
      routingKey: destination.routingKey,
      queue: destination.queue,
      ...traits,
      reprMaxLevels: conf.taskReprMaxlevels,
      retry: optionalBoolean(options, 'retry') ?? conf.taskPublishRetry,
      maxRetries: policy.maxRetries === undefined ? 3 : policy.maxRetries,
      intervalStartMs: 1000 * (policy.intervalStart ?? 0),
      intervalStepMs: 1000 * (policy.intervalStep ?? 0.2),
      intervalMaxMs: 1000 * (policy.intervalMax ?? 1),
    }
  }

  /**
   * For how many whole seconds the broker is to hold a message that is due in `seconds`; null where it does not
   * (`Celery.send_task`). The rest of the time it waits in a worker, as its eta says.
   *
   * Once the time has come the broker drops what no binding leads on, and tells nobody. So it holds only what the queue that is declared
   * with the call takes; what goes elsewhere is left to the worker that takes it there.
   */
  #delay(name: string, destination: Destination, seconds: number): number | null {
    if (seconds < 1 || this.router.delays === undefined) return null
    const { exchange, exchangeType, queue } = destination
    const kind = queue?.exchange.name === exchange ? queue.exchange.kind : exchangeType
    if (exchange !== '' && kind !== 'direct') {
      return isTaken(destination) ? Math.min(Math.trunc(seconds), MAX_DELAY_SECONDS) : null
    }
    if (!this.#hasWarnedOfDirect) warnOfDirect(name, destination)
    this.#hasWarnedOfDirect = true
    return null
  }

  /** The queue with what leads to it once the time has come, which is declared before the first message. */
  #delayed(destination: Destination): Destination {
    const { queue } = destination
    const { delays } = this.router
    return queue === null || delays === undefined
      ? destination
      : { ...destination, queue: { ...queue, delays } }
  }

  /** The fields of `TaskOptions` in the core. */
  #fields(name: string, taskId: string, destination: Destination, shadow: unknown): Record<string, unknown> {
    const { options } = destination
    const now = Date.now()
    const timeZone = defaultTimeZone(this.#conf)
    const fields: Record<string, unknown> = {}
    const put = (key: string, value: unknown): void => {
      if (value !== undefined && value !== null) fields[key] = value
    }
    const countdown = optionalSeconds(options, 'countdown')
    if (countdown !== null && (options['eta'] ?? null) !== null)
      throw invalid(`task ${name}: give countdown or eta, not both`)
    const eta = countdown ? isoAfter(now, countdown) : timeText(options['eta'], 'eta', timeZone)
    put('eta', eta)
    if (eta !== null && eta !== undefined) {
      put('delay', this.#delay(name, destination, countdown || (parseTime(eta, timeZone) - now) / 1000))
    }
    if (options['expires'] !== undefined && options['expires'] !== null) {
      const expires = expiry(options['expires'], now, timeZone)
      put('expires', expires.text)
      put('expiration_ms', Math.max(0, expires.milliseconds))
      if (expires.milliseconds < 0) warnOfExpiry(name, taskId, -expires.milliseconds)
    }
    put('shadow', text(shadow, 'shadow'))
    put('retries', options['retries'] === 0 ? null : options['retries'])
    put('group', text(options['group_id'], 'groupId'))
    put('group_index', options['group_index'])
    const context = currentWorkerTask()
    put(
      'root_id',
      text(options['root_id'], 'rootId') ?? (context === undefined ? null : context.request.rootId),
    )
    put(
      'parent_id',
      text(options['parent_id'], 'parentId') ?? (context === undefined ? null : context.request.id),
    )
    if (fields['root_id'] === taskId) delete fields['root_id']
    put('origin', text(options['origin'], 'origin'))
    put('reply_to', text(options['reply_to'], 'replyTo'))
    put('replaced_task_nesting', options['replaced_task_nesting'] || null)
    put('argsrepr', text(options['argsrepr'], 'argsrepr'))
    put('kwargsrepr', text(options['kwargsrepr'], 'kwargsrepr'))
    put('callbacks', list(options['link']))
    put('errbacks', list(options['link_error']))
    put('chain', list(options['chain']))
    put('chord', options['chord'])
    const stamped = options['stamped_headers'] as readonly string[] | undefined | null
    if (stamped !== undefined && stamped !== null && stamped.length > 0) {
      const names = [...new Set(stamped)]
      fields['stamped_headers'] = names
      fields['stamps'] = Object.fromEntries(names.map((stamp) => [stamp, options[stamp] ?? null]))
    }
    put('headers', objectOrNull(options['headers'], 'headers'))
    const properties = { ...objectOrNull(options['properties'], 'properties'), ...unknownOptions(options) }
    if (Object.keys(properties).length > 0) fields['properties'] = properties
    return fields
  }
}

/** What a route says for all its messages and a message may say otherwise. */
type Traits = Pick<NativeRoute, 'ignoreResult' | 'timeLimit' | 'softTimeLimit' | 'priority' | 'deliveryMode'>

function differences(traits: Traits, usual: Traits): Record<string, unknown> {
  const fields: Record<string, unknown> = {}
  if (traits.ignoreResult !== usual.ignoreResult) fields['ignore_result'] = traits.ignoreResult
  if (traits.priority !== usual.priority) fields['priority'] = traits.priority
  if (traits.deliveryMode !== usual.deliveryMode) fields['delivery_mode'] = traits.deliveryMode
  if (traits.timeLimit !== usual.timeLimit || traits.softTimeLimit !== usual.softTimeLimit) {
    fields['time_limit'] = [traits.timeLimit, traits.softTimeLimit]
  }
  return fields
}

/** Options that are the same for all messages of a route. */
const ROUTE_OPTIONS: ReadonlySet<string> = new Set([
  'serializer',
  'compression',
  'retry',
  'retry_policy',
  'time_limit',
  'soft_time_limit',
  'delivery_mode',
  'priority',
])

/** Options of Celery that mean nothing here and may stand in a signature from Python. */
const DROPPED = new Set([
  'connection',
  'producer',
  'publisher',
  'router',
  'result_cls',
  'task_type',
  'declare',
])

/** The options of a task that complete those of its calls (`Task._get_exec_options`); nulls left out. */
function readTaskOptions(task: AnyTask): WireOptions {
  const { options } = task
  const wire: WireOptions = {
    queue: options.queue,
    routing_key: options.routingKey,
    exchange: options.exchange,
    exchange_type: options.exchangeType,
    priority: options.priority ?? task.app.conf.taskDefaultPriority,
    expires: options.expires,
    serializer: options.serializer,
    delivery_mode: options.deliveryMode,
    compression: options.compression,
    time_limit: task.timeLimit,
    soft_time_limit: task.softTimeLimit,
  }
  for (const name of Object.keys(wire)) if (wire[name] === undefined || wire[name] === null) delete wire[name]
  return wire
}

/** An explicit null takes back what the task says of these; of all others it says nothing. */
const CLEARED_BY_NULL = ['time_limit', 'soft_time_limit', 'expires'] as const

function withTaskOptions({ options, task }: MessageInput): WireOptions {
  const given = task === undefined ? {} : readTaskOptions(task)
  for (const name of CLEARED_BY_NULL) if (options[name] === null) delete given[name]
  for (const [name, value] of Object.entries(options))
    if (value !== null && value !== undefined) given[name] = value
  return given
}

function inheritPriority(conf: Settings, options: WireOptions): void {
  if (!conf.taskInheritParentPriority || options['priority'] !== undefined) return
  const priority = currentWorkerTask()?.request.deliveryInfo.priority
  if (priority !== null && priority !== undefined) options['priority'] = priority
}

function unknownOptions(options: WireOptions): Record<string, unknown> {
  const stamps = new Set((options['stamped_headers'] as readonly string[] | undefined) ?? [])
  return Object.fromEntries(
    Object.entries(options).filter(
      ([name]) => !wireOptionNames.has(name) && !stamps.has(name) && !DROPPED.has(name),
    ),
  )
}

function refuseUnknown(task: string, options: WireOptions): void {
  const [unknown] = Object.keys(unknownOptions(options))
  if (unknown === undefined) return
  const nearest = closest(unknown, [...wireOptionNames])
  throw invalid(
    `task ${task}: there is no option '${unknown}'; the nearest is '${camelCaseOption(nearest)}'. Message properties ` +
      `of your own go under properties`,
  )
}

function camelCaseOption(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

function checkLimits(task: string, options: WireOptions): void {
  const soft = optionalSeconds(options, 'soft_time_limit')
  const hard = optionalSeconds(options, 'time_limit')
  if (soft !== null && hard !== null && soft > hard) {
    throw invalid(`task ${task}: softTimeLimit (${soft}) must not exceed timeLimit (${hard})`)
  }
}

function optionalSeconds(options: WireOptions, name: string): number | null {
  const value = options[name]
  if (value === undefined || value === null) return null
  if (typeof value !== 'number' || !Number.isFinite(value) || value < MIN_SECONDS) {
    throw invalid(`${camelCaseOption(name)} must be a number of seconds, not ${show(value)}`)
  }
  return value
}

function optionalBoolean(options: WireOptions, name: string): boolean | undefined {
  const value = options[name]
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'boolean')
    throw invalid(`${camelCaseOption(name)} must be true or false, not ${show(value)}`)
  return value
}

function priorityOf(value: unknown): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > 255) {
    throw invalid(`priority must be an integer from 0 to 255, not ${show(value)}`)
  }
  return value
}

function text(value: unknown, name: string): string | null {
  if (value === undefined || value === null) return null
  if (typeof value !== 'string') throw invalid(`${name} must be a string, not ${show(value)}`)
  return value
}

function list(value: unknown): unknown[] | null {
  if (value === undefined || value === null) return null
  const all: unknown[] = Array.isArray(value) ? value : [value]
  return all.length === 0 ? null : all
}

function objectOrNull(value: unknown, name: string): Record<string, unknown> | null {
  if (value === undefined || value === null) return null
  if (!isObject(value)) throw invalid(`${name} must be an object, not ${show(value)}`)
  return Object.keys(value).length === 0 ? null : value
}

function warnOfExpiry(name: string, taskId: string, milliseconds: number): void {
  process.emitWarning(
    `task ${name}[${taskId}] expired ${milliseconds / 1000} s before it was sent; it is sent all the same`,
    {
      type: 'CeleriacWarning',
      code: 'CELERIAC_EXPIRED',
    },
  )
}

function warnOfDirect(name: string, { queue, exchange, routingKey }: Destination): void {
  const place = exchange === '' ? `the queue ${queue?.name ?? routingKey}` : `the exchange ${exchange}`
  process.emitWarning(
    `task ${name} is delayed, and workers hold it until its time: RabbitMQ can do that where exchanges are of the type topic ` +
      `or fanout (taskDefaultExchangeType), but ${place} is reached directly`,
    { type: 'CeleriacWarning', code: 'CELERIAC_DIRECT_DELAY' },
  )
}

/** The header of an expiry, and how far away it is: less than 0 when it has passed. */
function expiry(value: unknown, now: number, timeZone: string): { text: string; milliseconds: number } {
  if (typeof value === 'number') {
    if (!Number.isFinite(value) || value < MIN_SECONDS)
      throw invalid(`expires must be seconds or a time, not ${show(value)}`)
    return { text: isoAfter(now, value), milliseconds: Math.round(value * 1000) }
  }
  const iso = timeText(value, 'expires', timeZone) as string
  return { text: iso, milliseconds: Math.round(parseTime(iso, timeZone) - now) }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function show(value: unknown): string {
  return typeof value === 'bigint' ? `${value}n` : (JSON.stringify(value) ?? String(value))
}

function invalid(message: string): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', message)
}

function notSupported(message: string): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_NOT_SUPPORTED', message)
}
