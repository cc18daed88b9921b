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
 * A delivery as the core gives it: see `NativeWorker.next`. `args` and `kwargs` are parsed; when `tagged`, they and
 * `request` hold kombu's tags until `reviveInPlace` was called on them.
 */
export type Delivery = [
  tag: number,
  name: string,
  id: string,
  args: unknown[],
  kwargs: Record<string, unknown>,
  tagged: boolean | 0 | 1,
  request: DeliveredRequest,
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
  /** Results of the tasks that this one has sent: what `AsyncResult.children` tells later. */
  readonly children: ChildResult[] = []
  readonly #wire: DeliveredRequest

  constructor(
    id: string,
    task: string,
    args: readonly unknown[],
    kwargs: Readonly<Record<string, unknown>>,
    wire: DeliveredRequest,
    where: { hostname?: string | null; calledDirectly?: boolean; isEager?: boolean } = {},
  ) {
    this.id = id
    this.task = task
    this.args = args
    this.kwargs = kwargs
    this.hostname = where.hostname ?? null
    this.calledDirectly = where.calledDirectly ?? false
    this.isEager = where.isEager ?? false
    this.#wire = wire
  }

  /** The request of a delivery, whose args, kwargs and request were revived if it is tagged. */
  static fromDelivery(delivery: Delivery, hostname: string): Request {
    return new Request(delivery[2], delivery[1], delivery[3], delivery[4], delivery[6], { hostname })
  }

  /** The first task of the workflow: this one's own id when it was sent from outside of any. */
  get rootId(): string {
    return this.#wire.root_id ?? this.id
  }

  /** The task that sent this one. */
  get parentId(): string | null {
    return this.#wire.parent_id ?? null
  }

  get correlationId(): string {
    return this.#wire.correlation_id ?? this.id
  }

  get replyTo(): string | null {
    return this.#wire.reply_to ?? null
  }

  /** The name to show instead of the task's. */
  get shadow(): string | null {
    return this.#wire.shadow ?? null
  }

  get argsrepr(): string | null {
    return this.#wire.argsrepr ?? null
  }

  get kwargsrepr(): string | null {
    return this.#wire.kwargsrepr ?? null
  }

  /** How often it was retried. */
  get retries(): number {
    return this.#wire.retries ?? 0
  }

  /** ISO 8601. */
  get eta(): string | null {
    return this.#wire.eta ?? null
  }

  /** ISO 8601. */
  get expires(): string | null {
    return this.#wire.expires ?? null
  }

  /** Hard limit of this message in seconds; null leaves it to the task. */
  get timeLimit(): number | null {
    return this.#wire.timelimit?.[0] ?? null
  }

  /** Soft limit of this message in seconds; null leaves it to the task. */
  get softTimeLimit(): number | null {
    return this.#wire.timelimit?.[1] ?? null
  }

  /** Hard, then soft. */
  get timelimit(): [number | null, number | null] {
    return [this.timeLimit, this.softTimeLimit]
  }

  get group(): string | null {
    return this.#wire.group ?? null
  }

  get groupIndex(): number | null {
    return this.#wire.group_index ?? null
  }

  get chord(): SignatureDict | null {
    return this.#wire.chord ?? null
  }

  /** What follows this task, last first. */
  get chain(): SignatureDict[] | null {
    return this.#wire.chain ?? null
  }

  get callbacks(): SignatureDict[] | null {
    return this.#wire.callbacks ?? null
  }

  get errbacks(): SignatureDict[] | null {
    return this.#wire.errbacks ?? null
  }

  get deliveryInfo(): DeliveryInfo {
    const info = this.#wire.delivery_info
    return {
      exchange: info?.exchange ?? null,
      routingKey: info?.routing_key ?? null,
      priority: this.#wire.priority ?? null,
      redelivered: info?.redelivered ?? false,
      ...(this.isEager ? { isEager: true } : {}),
    }
  }

  /** The queue that the worker took it from; null where the broker does not tell. */
  get queue(): string | null {
    return this.#wire.queue ?? null
  }

  get origin(): string | null {
    return this.#wire.origin ?? null
  }

  /** The language of the sender: `py`, `js`. */
  get lang(): string | null {
    return this.#wire.lang ?? null
  }

  /** Headers that are not the protocol's; null when there is none. */
  get headers(): Readonly<Record<string, unknown>> | null {
    return this.#wire.headers ?? null
  }

  /** Whether this message wants no result; null leaves it to the task. */
  get ignoreResult(): boolean | null {
    return this.#wire.ignore_result ?? null
  }

  get replacedTaskNesting(): number {
    return this.#wire.replaced_task_nesting ?? 0
  }

  get stampedHeaders(): string[] | null {
    return this.#wire.stamped_headers ?? null
  }

  get stamps(): Readonly<Record<string, unknown>> | null {
    return this.#wire.stamps ?? null
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
    const wire = this.#wire
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
