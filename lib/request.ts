/** Where a message came from. */
export interface DeliveryInfo {
  exchange: string | null
  routingKey: string | null
  priority: number | null
  redelivered: boolean
  /** Set when the task runs here without a broker ({@link Task.apply}). */
  isEager?: boolean
}

/** A signature in the form that travels: exactly Celery's keys. */
export interface SignatureDict {
  task: string
  args: unknown[]
  kwargs: Record<string, unknown>
  /** Execution options under Celery's own snake_case names. */
  options: Record<string, unknown>
  subtask_type: string | null
  immutable: boolean
}

/**
 * A delivery: see `NativeWorker.next`. `args` and `kwargs` are parsed; when `tagged`, they and `request` hold kombu's tags
 * until `reviveInPlace` was called on them. The request may be JSON text, which few ever look at; `plain` says that
 * nothing follows the task and that it has no time limit, which the text says as well.
 */
export type Delivery = [
  tag: number,
  name: string,
  id: string,
  args: unknown[],
  kwargs: Record<string, unknown>,
  tagged: boolean | 0 | 1,
  request: DeliveredRequest | string,
  plain?: boolean,
]

/** What differs from the default in a delivered request, under the names of the wire. */
export interface DeliveredRequest {
  retries?: number
  eta?: string
  expires?: string
  timelimit?: [number | null, number | null]
  root_id?: string
  parent_id?: string
  group?: string
  group_index?: number
  callbacks?: SignatureDict[]
  errbacks?: SignatureDict[]
  chain?: SignatureDict[]
  chord?: SignatureDict
  origin?: string
  lang?: string
  reply_to?: string
  correlation_id?: string
  ignore_result?: boolean
  shadow?: string
  argsrepr?: string
  kwargsrepr?: string
  stamped_headers?: string[]
  stamps?: Record<string, unknown>
  headers?: Record<string, unknown>
  replaced_task_nesting?: number
  priority?: number
  delivery_info?: { exchange?: string; routing_key?: string; redelivered?: boolean }
  queue?: string
}

/** The message that a task runs for: Celery's `task.request`, names in camelCase. */
export class Request {
  /** Task id. */
  readonly id: string
  /** Registered name of the task. */
  readonly task: string
  readonly args: readonly unknown[]
  readonly kwargs: Readonly<Record<string, unknown>>
  /** Node name of the worker; null outside of one. */
  readonly hostname: string | null
  /** True when the task's function was called like any function, with no message at all. */
  readonly calledDirectly: boolean
  /** True when it runs here by `apply()` or `taskAlwaysEager`. */
  readonly isEager: boolean
  /** True when it is known, without reading the request, that nothing follows it and that it has no time limit. */
  readonly isPlain: boolean
  #children: ChildResult[] | undefined
  #wire: DeliveredRequest | string

  constructor(
    id: string,
    task: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    wire: DeliveredRequest | string,
    where: { hostname?: string | null; calledDirectly?: boolean; isEager?: boolean; isPlain?: boolean } = {},
  ) {
    this.id = id
    this.task = task
    this.args = args
    this.kwargs = kwargs
    this.hostname = where.hostname ?? null
    this.calledDirectly = where.calledDirectly ?? false
    this.isEager = where.isEager ?? false
    this.isPlain = where.isPlain ?? false
    this.#wire = wire
  }

  /** The request of a delivery, whose args, kwargs and request were revived if it is tagged. */
  static fromDelivery(delivery: Delivery, hostname: string): Request {
    const where = { hostname, isPlain: delivery[7] ?? false }
    return new Request(delivery[2], delivery[1], delivery[3], delivery[4], delivery[6], where)
  }

  /** What the message says, read when it is first asked for: most bodies never do. */
  get #wired(): DeliveredRequest {
    const wire = this.#wire
    if (typeof wire !== 'string') return wire
    const read = JSON.parse(wire) as DeliveredRequest
    this.#wire = read
    return read
  }

  /** Results of the tasks that this one has sent: what `AsyncResult.children` tells later. */
  get children(): ChildResult[] {
    return (this.#children ??= [])
  }

  /** Whether it has sent any. */
  get hasChildren(): boolean {
    return this.#children !== undefined && this.#children.length > 0
  }

  /** The first task of the workflow: this one's own id when it was sent from outside of any. */
  get rootId(): string {
    return this.#wired.root_id ?? this.id
  }

  /** The task that sent this one. */
  get parentId(): string | null {
    return this.#wired.parent_id ?? null
  }

  get correlationId(): string {
    return this.#wired.correlation_id ?? this.id
  }

  get replyTo(): string | null {
    return this.#wired.reply_to ?? null
  }

  /** The name to show instead of the task's. */
  get shadow(): string | null {
    return this.#wired.shadow ?? null
  }

  get argsrepr(): string | null {
    return this.#wired.argsrepr ?? null
  }

  get kwargsrepr(): string | null {
    return this.#wired.kwargsrepr ?? null
  }

  /** How often it was retried. */
  get retries(): number {
    return this.#wired.retries ?? 0
  }

  /** ISO 8601. */
  get eta(): string | null {
    return this.#wired.eta ?? null
  }

  /** ISO 8601. */
  get expires(): string | null {
    return this.#wired.expires ?? null
  }

  /** Hard limit of this message in seconds; null leaves it to the task. */
  get timeLimit(): number | null {
    return this.#wired.timelimit?.[0] ?? null
  }

  /** Soft limit of this message in seconds; null leaves it to the task. */
  get softTimeLimit(): number | null {
    return this.#wired.timelimit?.[1] ?? null
  }

  /** Hard, then soft. */
  get timelimit(): [number | null, number | null] {
    return [this.timeLimit, this.softTimeLimit]
  }

  get group(): string | null {
    return this.#wired.group ?? null
  }

  get groupIndex(): number | null {
    return this.#wired.group_index ?? null
  }

  get chord(): SignatureDict | null {
    return this.#wired.chord ?? null
  }

  /** What follows this task, last first. */
  get chain(): SignatureDict[] | null {
    return this.#wired.chain ?? null
  }

  get callbacks(): SignatureDict[] | null {
    return this.#wired.callbacks ?? null
  }

  get errbacks(): SignatureDict[] | null {
    return this.#wired.errbacks ?? null
  }

  get deliveryInfo(): DeliveryInfo {
    const info = this.#wired.delivery_info
    return {
      exchange: info?.exchange ?? null,
      routingKey: info?.routing_key ?? null,
      priority: this.#wired.priority ?? null,
      redelivered: info?.redelivered ?? false,
      ...(this.isEager ? { isEager: true } : {}),
    }
  }

  /** The queue that the worker took it from; null where the broker does not tell. */
  get queue(): string | null {
    return this.#wired.queue ?? null
  }

  get origin(): string | null {
    return this.#wired.origin ?? null
  }

  /** The language of the sender: `py`, `js`. */
  get lang(): string | null {
    return this.#wired.lang ?? null
  }

  /** Headers that are not the protocol's; null when there is none. */
  get headers(): Readonly<Record<string, unknown>> | null {
    return this.#wired.headers ?? null
  }

  /** Whether this message wants no result; null leaves it to the task. */
  get ignoreResult(): boolean | null {
    return this.#wired.ignore_result ?? null
  }

  get replacedTaskNesting(): number {
    return this.#wired.replaced_task_nesting ?? 0
  }

  get stampedHeaders(): string[] | null {
    return this.#wired.stamped_headers ?? null
  }

  get stamps(): Readonly<Record<string, unknown>> | null {
    return this.#wired.stamps ?? null
  }

  /** Times are UTC, always. */
  get utc(): boolean {
    return true
  }

  /**
   * The options that another message for the same work carries on (`Context.as_execution_options`): ids, canvas,
   * limits, headers, under the names of the wire.
   */
  asExecutionOptions(): Record<string, unknown> {
    const wire = this.#wired
    const options: Record<string, unknown> = {
      task_id: this.id,
      root_id: this.rootId,
      parent_id: this.parentId,
      group_id: wire.group,
      group_index: wire.group_index,
      shadow: wire.shadow,
      chord: wire.chord,
      chain: wire.chain,
      link: wire.callbacks,
      link_error: wire.errbacks,
      expires: wire.expires,
      soft_time_limit: this.softTimeLimit,
      time_limit: this.timeLimit,
      headers: withoutDeathHeaders(wire.headers),
      retries: this.retries,
      reply_to: wire.reply_to,
      replaced_task_nesting: this.replacedTaskNesting,
      origin: wire.origin,
    }
    if (wire.stamped_headers !== undefined) {
      options['stamped_headers'] = wire.stamped_headers
      for (const name of wire.stamped_headers) options[name] = wire.stamps?.[name]
    }
    for (const key of Object.keys(options)) if (options[key] === undefined) delete options[key]
    return options
  }
}

/** A result that a running task has sent, as far as the parent must know it. */
export interface ChildResult {
  /** `[[id, parent], children]`, Celery's form of a result in JSON. */
  asTuple(): unknown
}

function withoutDeathHeaders(
  headers: Record<string, unknown> | undefined,
): Record<string, unknown> | undefined {
  if (headers === undefined) return undefined
  return Object.fromEntries(
    Object.entries(headers).filter(
      ([name]) => !name.startsWith('x-death') && !name.startsWith('x-first-death'),
    ),
  )
}
