import { camelCase } from './config/names.ts'
import type {
  ExchangeDefinition,
  QueueFields,
  Route,
  RouteMap,
  RoutePairs,
  Router as RouterFunction,
  RouterObject,
  TaskRoutes,
} from './config/types.ts'
import type { Settings } from './config/conf.ts'
import { readOptions, type WireOptions } from './call-options.ts'
import { CeleriacError, QueueNotFound } from './errors.ts'
import type { NativeExchange, NativeQueue } from './native.ts'

/** Where one message goes. */
export interface Destination {
  /** '' is the default exchange, which delivers to the queue that the routing key names. */
  readonly exchange: string
  readonly exchangeType: string
  readonly routingKey: string
  /** What to declare before the first publish; null where a route names an exchange and no queue. */
  readonly queue: NativeQueue | null
  /** Of the queue's exchange; undefined leaves it to `taskDefaultDeliveryMode`. */
  readonly deliveryMode: number | undefined
  /** The call's options completed by those of the route, under Celery's names. */
  readonly options: WireOptions
}

/** A queue as configured, with what the core need not know. */
interface ConfiguredQueue {
  readonly native: NativeQueue
  readonly isQuorum: boolean
  readonly deliveryMode: number | undefined
}

interface CompiledMap {
  readonly exact: ReadonlyMap<string, Route>
  readonly patterns: ReadonlyArray<readonly [RegExp, Route]>
}

/** The settings that decide where messages go. */
export type RoutingSettings = Pick<
  Settings,
  | 'taskQueues'
  | 'taskRoutes'
  | 'taskDefaultQueue'
  | 'taskDefaultQueueType'
  | 'taskDefaultExchange'
  | 'taskDefaultExchangeType'
  | 'taskDefaultRoutingKey'
  | 'taskCreateMissingQueues'
  | 'taskCreateMissingQueueType'
  | 'taskCreateMissingQueueExchangeType'
  | 'taskQueueMaxPriority'
  | 'brokerNativeDelayedDeliveryQueueType'
>

/**
 * Decides where messages go, by the settings as they were when it was made (`celery.app.amqp.Queues`,
 * `celery.app.routes.Router`).
 */
export class Router {
  readonly #conf: RoutingSettings
  readonly #queues = new Map<string, ConfiguredQueue>()
  /** Queues that no setting names, in the order of their last use. Senders may have one for each of their users. */
  readonly #made = new Map<string, ConfiguredQueue>()
  readonly #aliases = new Map<string, string>()
  readonly #routers: ReadonlyArray<CompiledMap | RouterFunction | RouterObject>
  readonly #consumed: string[]
  readonly #isAmqp: () => boolean
  #delays: NativeQueue['delays'] | null = null

  /** `isAmqp` says whether the broker is RabbitMQ; it is asked when that is first needed. */
  constructor(conf: RoutingSettings, isAmqp: () => boolean = () => false) {
    this.#conf = conf
    this.#isAmqp = isAmqp
    this.#addConfigured()
    this.#consumed = [...this.#queues.keys()]
    this.#routers = compileRoutes(conf.taskRoutes)
  }

  /** Whether a function has a say, so that two calls of one task may go to different places. */
  get dynamic(): boolean {
    return this.#routers.some((router) => !isCompiledMap(router))
  }

  /**
   * The type of the queues in which the broker holds messages until their time; undefined where workers hold them. RabbitMQ does
   * it for an app that has a quorum queue (`celery.utils.quorum_queues`).
   */
  get delays(): NativeQueue['delays'] {
    if (this.#delays === null) {
      const conf = this.#conf
      const hasQuorumQueue =
        (conf.taskCreateMissingQueues && conf.taskCreateMissingQueueType === 'quorum') ||
        [...this.#queues.values()].some(({ isQuorum }) => isQuorum)
      this.#delays = hasQuorumQueue && this.#isAmqp() ? conf.brokerNativeDelayedDeliveryQueueType : undefined
    }
    return this.#delays
  }

  /**
   * The queue of that name or alias, as a worker declares it. An unknown one is made, unless `taskCreateMissingQueues` is
   * off.
   */
  queue(name: string): NativeQueue {
    const { native } = this.#configured(name)
    const { delays } = this
    return delays === undefined ? native : { ...native, delays }
  }

  /**
   * Where a message goes that RabbitMQ had held for a queue: where it went before, if the queue is known to take it from there; its
   * key then says for how long it was held (`kombu.transport.native_delayed_delivery.calculate_routing_key`).
   */
  afterDelay(name: string, routingKey: string | null): WireOptions {
    const queue = this.#configured(name).native
    const key = routingKey?.replace(DELAY_PREFIX, '')
    const keeps = key && isTaken({ queue, exchange: queue.exchange.name, routingKey: key })
    return keeps ? { queue: name, routing_key: key } : { queue: name }
  }

  /** The queues that a worker consumes which names none: `taskQueues`, or the default queue. */
  consumedQueues(): NativeQueue[] {
    return this.#consumed.map((name) => this.queue(name))
  }

  /**
   * Where a message goes. `options` are the call's, under Celery's names: they win over what a route says. `name` is
   * the task's, or the call's `route_name`.
   */
  destination(
    name: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    options: WireOptions,
    task?: unknown,
  ): Destination {
    const route = this.#lookUp(name, args, kwargs, options, task)
    const merged = route === null ? { ...options } : { ...route, ...withoutNulls(options) }
    const queueName =
      merged['queue'] ?? (route === null || isNull(merged['exchange']) ? this.#conf.taskDefaultQueue : null)
    if (queueName !== null && (typeof queueName !== 'string' || queueName === '')) {
      throw new CeleriacError(
        'ERR_CELERIAC_INVALID_ARGUMENT',
        `task ${name}: a queue needs a name, not ${JSON.stringify(queueName)}`,
      )
    }
    const configured = queueName === null ? null : this.#configured(queueName)
    return this.#complete(merged, configured)
  }

  #complete(options: WireOptions, configured: ConfiguredQueue | null): Destination {
    const { queue: _queue, exchange, exchange_type: type, routing_key: key, ...rest } = options
    const queue = configured?.native ?? null
    const exchangeType = typeof type === 'string' ? type : (queue?.exchange.kind ?? 'direct')
    const common = { queue, deliveryMode: configured?.deliveryMode, options: rest, exchangeType }
    // A direct exchange of which only half is given is not used: the default exchange finds the queue by its name.
    if (queue !== null && (!exchange || !key) && exchangeType === 'direct') {
      return { ...common, exchange: '', routingKey: queue.name }
    }
    return {
      ...common,
      exchange: String(exchange ?? (queue?.exchange.name || this.#conf.taskDefaultExchange)),
      routingKey: String(key ?? (queue?.routingKey || this.#conf.taskDefaultRoutingKey)),
    }
  }

  #lookUp(
    name: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    options: WireOptions,
    task: unknown,
  ): WireOptions | null {
    for (const router of this.#routers) {
      const route = isCompiledMap(router)
        ? lookUpInMap(router, name)
        : typeof router === 'function'
          ? router(name, args, kwargs, options, task)
          : router.routeForTask(name, args, kwargs)
      if (route !== null && route !== undefined) return readRoute(route)
    }
    return null
  }

  #configured(name: string): ConfiguredQueue {
    const found = this.#queues.get(this.#aliases.get(name) ?? name)
    if (found !== undefined) return found
    const made = this.#made.get(name)
    if (made !== undefined) {
      this.#made.delete(name)
      this.#made.set(name, made)
      return made
    }
    if (!this.#conf.taskCreateMissingQueues) {
      throw new QueueNotFound(
        `queue '${name}' is missing from taskQueues (${[...this.#queues.keys()].join(', ')}), and ` +
          `taskCreateMissingQueues is off`,
      )
    }
    const conf = this.#conf
    const queueArguments = conf.taskCreateMissingQueueType === 'quorum' ? { 'x-queue-type': 'quorum' } : {}
    const queue = this.#configure({
      name,
      exchange: name,
      exchangeType: conf.taskCreateMissingQueueExchangeType ?? 'direct',
      routingKey: name,
      queueArguments,
    })
    this.#made.set(name, queue)
    const [oldest] = this.#made.keys()
    if (this.#made.size > MAX_MADE_QUEUES && oldest !== undefined) this.#made.delete(oldest)
    return queue
  }

  #addConfigured(): void {
    const conf = this.#conf
    const queues = conf.taskQueues
    if (Array.isArray(queues) && queues.length > 0) {
      for (const queue of queues as Array<{ name: string }>) this.#add(camelCased(queue) as NamedQueue)
    } else if (queues !== null && !Array.isArray(queues) && Object.keys(queues).length > 0) {
      for (const [name, fields] of Object.entries(queues)) {
        const queue = camelCased(fields as object) as Partial<QueueFields>
        // A queue of a mapping is bound by its own name unless it says otherwise; one of a list by the default key.
        this.#add({ ...queue, name, routingKey: queue.routingKey ?? queue.bindingKey ?? name })
      }
    } else {
      const queueArguments = conf.taskDefaultQueueType === 'quorum' ? { 'x-queue-type': 'quorum' } : {}
      this.#add({ name: conf.taskDefaultQueue, queueArguments })
    }
  }

  #add(queue: NamedQueue): void {
    this.#queues.set(queue.name, this.#configure(queue))
    if (queue.alias !== undefined) this.#aliases.set(queue.alias, queue.name)
  }

  #configure(queue: NamedQueue): ConfiguredQueue {
    const conf = this.#conf
    const given: ExchangeDefinition | null =
      typeof queue.exchange === 'object'
        ? queue.exchange
        : queue.exchange
          ? { name: queue.exchange, type: queue.exchangeType ?? 'direct' }
          : null
    const exchange: NativeExchange =
      given === null || given.name === ''
        ? {
            name: conf.taskDefaultExchange ?? conf.taskDefaultQueue,
            kind: queue.exchangeType ?? conf.taskDefaultExchangeType,
            durable: true,
            autoDelete: false,
          }
        : {
            name: given.name,
            kind: given.type ?? queue.exchangeType ?? 'direct',
            durable: given.durable ?? true,
            autoDelete: given.autoDelete ?? false,
          }
    const queueArguments = queueArgumentsOf(queue, conf.taskQueueMaxPriority)
    return {
      native: {
        name: queue.name,
        exchange,
        routingKey:
          queue.routingKey ?? queue.bindingKey ?? conf.taskDefaultRoutingKey ?? conf.taskDefaultQueue,
        durable: queue.durable ?? true,
        exclusive: queue.exclusive ?? false,
        autoDelete: queue.autoDelete ?? false,
        arguments: Object.keys(queueArguments).length === 0 ? '' : JSON.stringify(queueArguments),
      },
      isQuorum: queueArguments['x-queue-type'] === 'quorum',
      deliveryMode: deliveryModeNumber(given?.deliveryMode ?? undefined),
    }
  }
}

/**
 * Whether the queue takes from delayed delivery what goes there, which leads by the queue's own exchange and key. That exchange's
 * type decides, not what a call says of it: one that is direct is not led to, and to a fanout exchange only the queue's key leads.
 */
export function isTaken({
  queue,
  exchange,
  routingKey,
}: Pick<Destination, 'queue' | 'exchange' | 'routingKey'>): boolean {
  return (
    queue?.exchange.name === exchange &&
    queue.exchange.kind !== 'direct' &&
    isBoundBy(queue.routingKey, routingKey)
  )
}

/** Whether a binding of a topic exchange takes a routing key: `*` stands for one word, `#` for any number of them. */
function isBoundBy(binding: string, routingKey: string): boolean {
  const takes = (words: readonly string[], parts: readonly string[]): boolean => {
    const [word] = words
    if (word === undefined) return parts.length === 0
    if (word === '#')
      return takes(words.slice(1), parts) || (parts.length > 0 && takes(words, parts.slice(1)))
    return parts.length > 0 && (word === '*' || word === parts[0]) && takes(words.slice(1), parts.slice(1))
  }
  return binding === routingKey || takes(binding.split('.'), routingKey.split('.'))
}

/** Before the routing key of a message that RabbitMQ holds: for how many seconds, a word a bit. */
const DELAY_PREFIX = /^(?:[01]\.){28}/

/** Making one again costs little; the settings of one that was forgotten come out the same. */
const MAX_MADE_QUEUES = 10_000

type NamedQueue = Partial<QueueFields> & { name: string }

/** 1 or 2 for any spelling of a delivery mode. */
export function deliveryModeNumber(mode: unknown): number | undefined {
  if (mode === undefined || mode === null) return undefined
  if (mode === 1 || mode === 'transient') return 1
  if (mode === 2 || mode === 'persistent') return 2
  throw new CeleriacError(
    'ERR_CELERIAC_INVALID_ARGUMENT',
    `deliveryMode must be 1 ('transient') or 2 ('persistent'), not ${JSON.stringify(mode)}`,
  )
}

function queueArgumentsOf(queue: NamedQueue, maxPriority: number | null): Record<string, unknown> {
  const milliseconds = (seconds: number): number => Math.trunc(seconds * 1000)
  const result: Record<string, unknown> = { ...queue.queueArguments }
  if (queue.maxPriority !== undefined) result['x-max-priority'] = queue.maxPriority
  if (queue.messageTtl !== undefined) result['x-message-ttl'] = milliseconds(queue.messageTtl)
  if (queue.expires !== undefined) result['x-expires'] = milliseconds(queue.expires)
  if (queue.maxLength !== undefined) result['x-max-length'] = queue.maxLength
  if (maxPriority !== null) result['x-max-priority'] ??= maxPriority
  return result
}

function compileRoutes(routes: TaskRoutes | null): Array<CompiledMap | RouterFunction | RouterObject> {
  if (routes === null) return []
  const list = Array.isArray(routes) ? routes : [routes]
  // A pair may stand among routers by itself.
  return list.map((route: RouteMap | RouterFunction | RoutePairs | RouterObject) =>
    compileRoute(isPair(route) ? ([route] as unknown as RoutePairs) : route),
  )
}

function compileRoute(
  route: RouteMap | RouterFunction | RoutePairs | RouterObject,
): CompiledMap | RouterFunction | RouterObject {
  if (typeof route === 'function') return route
  if (isRouterObject(route)) return route
  const entries: Iterable<readonly [string | RegExp, Route]> =
    route instanceof Map || Array.isArray(route)
      ? (route as Iterable<readonly [string | RegExp, Route]>)
      : Object.entries(route)
  const exact = new Map<string, Route>()
  const patterns: Array<readonly [RegExp, Route]> = []
  for (const [pattern, value] of entries) {
    if (pattern instanceof RegExp) patterns.push([anchored(pattern), value])
    else if (pattern.includes('*')) patterns.push([globPattern(pattern), value])
    else exact.set(pattern, value)
  }
  return { exact, patterns }
}

function lookUpInMap(map: CompiledMap, name: string): Route | null {
  const exact = map.exact.get(name)
  if (exact !== undefined) return exact
  return map.patterns.find(([pattern]) => pattern.test(name))?.[1] ?? null
}

/** The regular expression of a glob: `*`, `?`, `[a-z]` and `[!a-z]`, as Python's fnmatch. */
export function globPattern(glob: string): RegExp {
  const source = glob.replace(
    /\[(!?)(\]?[^\]]*)\]|[*?]|[\\^$.|+(){}[\]]/g,
    (part, not: string | undefined, set: string | undefined) => {
      if (part === '*') return '.*'
      if (part === '?') return '.'
      if (set) return `[${not ? '^' : ''}${set.replace(/[\\\]^[]/g, '\\$&')}]`
      return `\\${part}`
    },
  )
  return new RegExp(`^(?:${source})$`, 's')
}

/** Python's `match` begins at the start of the name; a flag for state must not make it forgetful. */
function anchored(pattern: RegExp): RegExp {
  return new RegExp(`^(?:${pattern.source})`, pattern.flags.replace(/[gy]/g, ''))
}

function readRoute(route: Route): WireOptions {
  return typeof route === 'string' ? { queue: route } : readOptions(route)
}

function withoutNulls(options: WireOptions): WireOptions {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== null && value !== undefined),
  )
}

function isNull(value: unknown): boolean {
  return value === null || value === undefined
}

function isPair(value: unknown): boolean {
  return (
    Array.isArray(value) && value.length === 2 && (typeof value[0] === 'string' || value[0] instanceof RegExp)
  )
}

function isCompiledMap(router: CompiledMap | RouterFunction | RouterObject): router is CompiledMap {
  return typeof router === 'object' && 'patterns' in router
}

function isRouterObject(route: object): route is RouterObject {
  return typeof (route as Partial<RouterObject>).routeForTask === 'function'
}

function camelCased(fields: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [camelCase(name), value]))
}
