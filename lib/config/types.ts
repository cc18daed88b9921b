import type { EitherSpelling } from './names.ts'

/** How an exchange finds its queues. */
export type ExchangeType = 'direct' | 'topic' | 'fanout' | 'headers'

/** Whether a message survives a restart of the broker: 2 or `persistent`, 1 or `transient`. */
export type DeliveryMode = 1 | 2 | 'transient' | 'persistent'

/** An exchange, as kombu's `Exchange`. */
export interface ExchangeFields {
  /** Its name. */
  name: string
  /** How it finds its queues; `direct` unless said. */
  type: ExchangeType
  /** Whether it survives a restart of the broker; true unless said. */
  durable: boolean
  /** Whether it goes when its last queue goes; false unless said. */
  autoDelete: boolean
  /** How messages through it are kept; before `taskDefaultDeliveryMode`. */
  deliveryMode: DeliveryMode
}

/** An exchange by its fields, `name` among them. */
export type ExchangeDefinition = { name: string } & EitherSpelling<Omit<ExchangeFields, 'name'>>

/** What can be said of a queue, as kombu's `Queue`. What is left out comes from the `taskDefault…` settings. */
export interface QueueFields {
  /** The exchange it is bound to. */
  exchange: string | ExchangeDefinition
  /** The type of an exchange given by name. */
  exchangeType: ExchangeType
  /** The key it is bound with. */
  routingKey: string
  /** The same as `routingKey`. */
  bindingKey: string
  /** Whether it survives a restart of the broker; true unless said. */
  durable: boolean
  /** Only one connection may consume it; false unless said. */
  exclusive: boolean
  /** Whether it goes when its last consumer goes; false unless said. */
  autoDelete: boolean
  /** `x-…` arguments of the queue, such as `x-max-priority`. */
  queueArguments: Record<string, unknown>
  /** `x-…` arguments of its binding. */
  bindingArguments: Record<string, unknown>
  /** Another name by which `queue` options and `-Q` find it. */
  alias: string
  /** `x-max-priority`. */
  maxPriority: number
  /** `x-message-ttl`, in seconds. */
  messageTtl: number
  /** `x-expires`, in seconds. */
  expires: number
  /** `x-max-length`. */
  maxLength: number
}

/** A queue without its name. */
export type QueueOptions = EitherSpelling<QueueFields>

/** A queue with its name. */
export type QueueDefinition = { name: string } & QueueOptions

/** `taskQueues`: queues by name, or a list of them. */
export type TaskQueues = Readonly<Record<string, QueueOptions>> | readonly QueueDefinition[]

/** Where messages go: what a route may say. It may carry any other option of `applyAsync` as well. */
export interface RouteFields {
  /** The name of a queue. */
  queue: string
  /** The name of an exchange; before the one of the queue. */
  exchange: string
  /** The type of that exchange. */
  exchangeType: ExchangeType
  /** The routing key. */
  routingKey: string
  /** The priority; 0 to 9 on Redis, where 0 goes first, 0 to 255 on RabbitMQ. */
  priority: number
  /** The name of a serializer. */
  serializer: string
  /** The name of a compression. */
  compression: string
  /** How the message is kept. */
  deliveryMode: DeliveryMode
}

/** A route by its fields. */
export type RouteOptions = EitherSpelling<RouteFields> & { readonly [option: string]: unknown }

/** A route: the name of a queue, or more. */
export type Route = string | RouteOptions

/** Decides where one message goes; null or undefined leaves it to the next router. */
export type Router = (
  name: string,
  args: readonly unknown[],
  kwargs: Readonly<Record<string, unknown>>,
  options: Readonly<Record<string, unknown>>,
  task?: unknown,
) => Route | null | undefined

/** A router as an object, as in Celery before 4.0. */
export interface RouterObject {
  /** Decides where one message goes. */
  routeForTask(
    name: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
  ): Route | null | undefined
}

/** Routes by name of task. Names may be globs (`mail.*`); with a Map, also regular expressions. The first wins. */
export type RouteMap = Readonly<Record<string, Route>> | ReadonlyMap<string | RegExp, Route>

/** The same as pairs. */
export type RoutePairs = readonly (readonly [pattern: string | RegExp, route: Route])[]

/** `taskRoutes`: a router, or several of which the first with an answer wins. */
export type TaskRoutes =
  RouteMap | Router | RouterObject | RoutePairs | readonly (RouteMap | Router | RouterObject | RoutePairs)[]

/** Changes attributes of a task, such as `rateLimit`. */
export type TaskAnnotation = Readonly<Record<string, unknown>>

/** Says what to change in a task, when it is registered. */
export type TaskAnnotator = (task: unknown) => TaskAnnotation | null | undefined

/** Attributes by name of task, `*` for all. */
export type TaskAnnotationMap = Readonly<Record<string, TaskAnnotation>>

/** `taskAnnotations`. */
export type TaskAnnotations =
  TaskAnnotationMap | TaskAnnotator | readonly (TaskAnnotationMap | TaskAnnotator)[]

/** How a publish is retried while the broker is away. */
export interface RetryPolicyFields {
  /** How often; null is without end, until `publishTimeout`. */
  maxRetries: number | null
  /** Seconds before the first retry. */
  intervalStart: number
  /** Seconds that each wait is longer than the last. */
  intervalStep: number
  /** The longest wait, in seconds. */
  intervalMax: number
}

/** A retry policy; what is left out is as in kombu: 3 retries, 1 second each. */
export type RetryPolicy = Partial<RetryPolicyFields> & EitherSpelling<RetryPolicyFields>

/** TLS: true for what the system trusts, or the files to use. */
export interface TlsFields {
  /** A file of certificates to trust. */
  sslCaCerts: string
  /** Our certificate. */
  sslCertfile: string
  /** Its key. */
  sslKeyfile: string
  /** Whether the server must show a certificate: `CERT_REQUIRED`, `CERT_OPTIONAL` or `CERT_NONE`. */
  sslCertReqs: string
}

/** TLS parameters by Celery's names; the AMQP ones without `ssl_` are taken too. */
export type TlsOptions = EitherSpelling<TlsFields> & { readonly [option: string]: unknown }

/** The options of kombu's transports that are known here; any other is passed on. */
export interface TransportOptionFields {
  /** Seconds after which what a Python worker claimed and did not ack is given to another. Redis, SQS. */
  visibilityTimeout: number
  /** Put before every key and channel name. Redis. */
  globalKeyprefix: string
  /** The priorities that have a list of their own. Redis. */
  prioritySteps: readonly number[]
  /** Between the name of a queue and its priority in keys. Redis. */
  sep: string
  /** Whether, or with which, prefix broadcasts are told apart by database. Redis. */
  fanoutPrefix: boolean | string
  /** Whether broadcasts use patterns. Redis. */
  fanoutPatterns: boolean
  /** `round_robin`, `priority` or `sorted`: from which queue to take next. Redis. */
  queueOrderStrategy: string
  /** Seconds. */
  socketTimeout: number
  /** Seconds. */
  socketConnectTimeout: number
  /** TCP keep-alive. */
  socketKeepalive: boolean
  /** Seconds between two health checks of a connection. */
  healthCheckInterval: number
  /** The name of the master. Sentinel. */
  masterName: string
  /** The most connections in a pool. */
  maxConnections: number
  /** Seconds between two polls, where a transport polls. */
  pollingInterval: number
  /** Whether publishes are confirmed. AMQP; always on here. */
  confirmPublish: boolean
}

/** `brokerTransportOptions`, `resultBackendTransportOptions`. */
export type TransportOptions = EitherSpelling<TransportOptionFields> & { readonly [option: string]: unknown }

/** One periodic task. */
export interface BeatEntryFields {
  /** The name of the task. */
  task: string
  /** Seconds between two runs, or a schedule such as a crontab. */
  schedule: unknown
  /** Positional arguments. */
  args: readonly unknown[]
  /** Keyword arguments. */
  kwargs: Readonly<Record<string, unknown>>
  /** Options of `applyAsync`. */
  options: Readonly<Record<string, unknown>>
  /** Whether runs are aligned with the clock. */
  relative: boolean
}

/** One entry of `beatSchedule`. */
export type BeatEntry = Pick<BeatEntryFields, 'task' | 'schedule'> & Partial<BeatEntryFields>

/** The names of the two tables or schemas of the database backend. */
export interface TableNames {
  /** Of task results. */
  task?: string
  /** Of group results. */
  group?: string
}

/** Tells the next URL to try when the broker is away. */
export type FailoverStrategy = (urls: readonly string[]) => Iterator<string>
