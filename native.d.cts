/* The native boundary, written down before it was generated. Names and order are those of crates/celeriac-node. */

/** What one flush of publishes, or a batch of waits, came to. `calls` are done; `failures` are not. */
export interface NativeReport {
  /** Calls that succeeded, in no particular order. */
  calls: Uint32Array
  /** For waits: the document of each call in `calls`, as `get` gives it. Absent for publishes. */
  documents?: Array<string>
  /** Calls that failed. */
  failures: Array<NativeFailure>
}
export interface NativeFailure {
  call: number
  code: string
  message: string
}
export interface NativeExchange {
  name: string
  /** direct, topic, fanout or headers */
  kind: string
  durable: boolean
  autoDelete: boolean
}
export interface NativeQueue {
  name: string
  exchange: NativeExchange
  routingKey: string
  durable: boolean
  exclusive: boolean
  autoDelete: boolean
  /** JSON object text, or empty */
  arguments: string
}
export interface NativeBrokerOptions {
  url: string
  /** JSON object text: broker_transport_options */
  transportOptions: string
  connectTimeoutMs: number
  /** After this a publish fails with ERR_CELERIAC_PUBLISH_TIMEOUT, retries included. */
  publishTimeoutMs: number
  /** `gen<pid>@<host>` */
  origin: string
  /** property reply_to of every task message */
  replyTo: string
}
/** Where the messages of one task go, and what they have in common. */
export interface NativeRoute {
  task: string
  /** '' is the default exchange */
  exchange: string
  exchangeType: string
  routingKey: string
  /** The queue to declare before the first publish; null declares nothing. */
  queue: NativeQueue | null
  /** null is null on the wire */
  ignoreResult: boolean | null
  /** seconds; hard, soft */
  timeLimit: number | null
  softTimeLimit: number | null
  deliveryMode: number
  priority: number
  reprMaxLevels: number | null
  /** publish retry policy: see task_publish_retry_policy */
  retry: boolean
  /** null is for ever (until publishTimeoutMs) */
  maxRetries: number | null
  intervalStartMs: number
  intervalStepMs: number
  intervalMaxMs: number
}
export interface NativeDeadLetter {
  id: string
  queue: string
  reason: string
  detail: string
  atMs: number
  raw: Buffer
}
export declare class NativeBroker {
  /** `report` is called once a flush; it never keeps the process alive. Nothing is connected yet. */
  static open(options: NativeBrokerOptions, report: (report: NativeReport) => void): NativeBroker
  /** Resolves when the broker has answered. */
  connect(): Promise<void>
  declare(queues: Array<NativeQueue>): Promise<void>
  /** Registers a route; the number stands for it in `publish` and in settlements. */
  route(route: NativeRoute): number
  /**
   * Appends one task message to the buffer and returns; `call` comes back in a report. `args` and `kwargs` are JSON
   * in Python's sense (NaN, Infinity and big integers allowed, kombu's tags for special types); `options` is a JSON
   * object with the fields of `TaskOptions` in crates/celeriac-protocol/src/task.rs, without `_json`, or null.
   */
  publish(call: number, route: number, taskId: string, args: string, kwargs: string, options: string | null): void
  /** Publishes any message: remote control. `body`, `headers`, `properties` are JSON texts. */
  publishMessage(
    call: number,
    exchange: string,
    exchangeType: string,
    routingKey: string,
    body: string,
    headers: string,
    properties: string,
  ): void
  queueLength(queue: string): Promise<number>
  purge(queue: string): Promise<number>
  deadLetters(offset: number, limit: number): Promise<Array<NativeDeadLetter>>
  /** What the transport can do: priority, fanout (so remote control), Python on the other side. */
  features(): NativeFeatures
  /** Settles what waits in the buffer (with its publish timeout), then closes. */
  close(): Promise<void>
}
export interface NativeFeatures {
  priority: boolean
  fanout: boolean
  interoperable: boolean
}
export interface NativeResultsOptions {
  url: string
  /** JSON object text: result_backend_transport_options and the redis_* settings */
  options: string
  connectTimeoutMs: number
}
export declare class NativeResults {
  static open(options: NativeResultsOptions, report: (report: NativeReport) => void): NativeResults
  connect(): Promise<void>
  /** Waits until the task is ready; `call` comes back in a report with its document. */
  wait(call: number, taskId: string): void
  /** Ends a wait without a report. */
  cancelWait(call: number): void
  /** The documents (see `to_javascript` in crates/celeriac-protocol/src/result_meta.rs), null where nothing is stored. */
  get(taskIds: Array<string>): Promise<Array<string | null>>
  /** Stores a document: JSON in Python's sense with task_id, status, result, traceback, children, and optionally
   *  group_id, parent_id and the extended fields. `expiresMs` null keeps it for ever. */
  store(meta: string, expiresMs: number | null): Promise<void>
  forget(taskIds: Array<string>): Promise<void>
  cleanup(expiresMs: number): Promise<number>
  close(): Promise<void>
}
/** What the worker must know of a registered task. */
export interface NativeTask {
  name: string
  acksLate: boolean
  /** null leaves it to the message, then to false */
  ignoreResult: boolean | null
  storeErrorsEvenIfIgnored: boolean
  trackStarted: boolean
}
export interface NativeWorkerOptions {
  hostname: string
  /** process id for the STARTED document */
  pid: number
  queues: Array<NativeQueue>
  tasks: Array<NativeTask>
  /** How many bodies run at once. */
  concurrency: number
  /** How many messages are held, those running included; 0 is no limit. ETA tasks come on top. */
  prefetch: number
  /** Upper bound of held ETA tasks; null is none. */
  etaTaskLimit: number | null
  leaseMs: number
  /** MIME types */
  acceptContent: Array<string>
  resultExpiresMs: number | null
  resultExtended: boolean
  /** celery.pidbox and so on; null switches remote control off */
  controlExchange: string | null
  /** broker_connection_retry, …_on_startup, …_max_retries (null for ever) */
  connectionRetry: boolean
  connectionRetryOnStartup: boolean
  connectionMaxRetries: number | null
}
export declare class NativeWorker {
  /** `results` null: nothing is stored. */
  static open(broker: NativeBroker, results: NativeResults | null, options: NativeWorkerOptions): NativeWorker
  /** Connects, declares the queues, begins to claim. */
  start(): Promise<void>
  /**
   * The next deliveries: a JSON array, as soon as one is there and a slot is free; null once stopped and everything
   * delivered was settled. Items:
   * - a task: `[tag, name, id, args, kwargs, tagged, request]`: `tagged` says that args, kwargs or request hold kombu's
   *   tags to revive; `request` holds what differs from the default: retries, eta, expires, timelimit [hard, soft],
   *   root_id (when not id), parent_id, group, group_index, callbacks, errbacks, chain, chord, origin, lang, reply_to,
   *   correlation_id (when not id), ignore_result, shadow, argsrepr, kwargsrepr, stamped_headers, stamps, headers,
   *   replaced_task_nesting, priority, delivery_info {exchange, routing_key, redelivered}, queue;
   * - a revoke of a task that may be running: `["revoke", [ids], terminate, signal]`;
   * - remote shutdown: `["shutdown"]`.
   */
  next(): Promise<string | null>
  /**
   * Settles deliveries; appends and returns. `batch` is a JSON array (Python's sense) of
   * `[tag, outcome, state, result, traceback, children, publish]`:
   * - outcome: 0 ack, 1 reject without requeue, 2 requeue marked as redelivered, 3 requeue unmarked (not begun);
   * - state: what to store (null stores nothing; SUCCESS of an ignored result is not stored);
   * - result: JSON; traceback: string or null; children: JSON array or null;
   * - publish: null or an array of `[route, taskId, args, kwargs, options]`, as in `publish`.
   */
  settle(batch: string): void
  /** Marks ids as revoked. */
  revoke(taskIds: Array<string>): void
  /** Warm: claims nothing more and hands back at once what was not delivered to JavaScript. */
  stop(): Promise<void>
  /** Settles what was given to `settle`, hands back everything still held, closes. */
  close(): Promise<void>
  /** JSON: counts by state, held, scheduled, active, processed. */
  stats(): string
}
export interface NativeLogRecord {
  /** DEBUG, INFO, WARNING, ERROR, CRITICAL */
  level: string
  /** Celery's logger name, such as celery.worker.strategy */
  logger: string
  message: string
  taskId: string | null
  taskName: string | null
  atMs: number
}
/** One logger a process; records come in batches. `level` is a name as above. */
export declare function setLogger(level: string, write: (records: Array<NativeLogRecord>) => void): void
/** `saferepr` of a JSON text in Python's sense. */
export declare function pythonRepr(json: string, tuple: boolean, maxLength: number): string
/** The URL with its password as `**`. */
export declare function maskUrl(url: string): string
export declare function brokerSchemes(): Array<string>
export declare function resultSchemes(): Array<string>
export declare function errorCodes(): Array<string>
export declare function version(): string
