import { randomUUID } from 'node:crypto'

import { CeleriacError } from './errors.ts'
import type { AnySignature } from './canvas/signature.ts'
import type { SignatureDict } from './request.ts'

/** `task_publish_retry_policy`: seconds; `maxRetries` null is until `publishTimeout`. */
export interface RetryPolicy {
  maxRetries?: number | null | undefined
  intervalStart?: number | undefined
  intervalStep?: number | undefined
  intervalMax?: number | undefined
}

/** What `applyAsync` and `sendTask` take: Celery's options in camelCase. Durations are seconds; null is the default. */
export interface ApplyAsyncOptions {
  /** Keyword arguments. */
  kwargs?: Readonly<Record<string, unknown>> | null | undefined
  /** Seconds from now until the task may run. Not together with `eta`. */
  countdown?: number | null | undefined
  /** When the task may run: a Date, or ISO 8601 text (in `timezone`, so UTC, when it names no offset). */
  eta?: Date | string | null | undefined
  /** Seconds from now, or the time, after which the task is not run any more. */
  expires?: number | Date | string | null | undefined
  /** The id of the task. Default: a new UUID. */
  taskId?: string | null | undefined
  /** Retry the publish when the broker cannot be reached. Default `taskPublishRetry`. */
  retry?: boolean | null | undefined
  /** How. Default `taskPublishRetryPolicy`. */
  retryPolicy?: RetryPolicy | null | undefined
  /** What to call with the result after success. */
  link?: AnySignature | SignatureDict | ReadonlyArray<AnySignature | SignatureDict> | null | undefined
  /** What to call after a failure. */
  linkError?: AnySignature | SignatureDict | ReadonlyArray<AnySignature | SignatureDict> | null | undefined
  /** Name to show instead of the task's. */
  shadow?: string | null | undefined
  /** Hard limit in seconds; null takes back the task's. */
  timeLimit?: number | null | undefined
  /** Soft limit in seconds; null takes back the task's. */
  softTimeLimit?: number | null | undefined
  /** Name of a queue. */
  queue?: string | null | undefined
  exchange?: string | null | undefined
  /** direct, topic, fanout or headers. Default: that of the queue. */
  exchangeType?: string | null | undefined
  routingKey?: string | null | undefined
  /** 0 to 255. Redis runs 0 first, RabbitMQ the highest first. */
  priority?: number | null | undefined
  /** Only `json` so far. */
  serializer?: string | null | undefined
  /** None so far. */
  compression?: string | null | undefined
  /** 1 or `transient`, 2 or `persistent`. Default `taskDefaultDeliveryMode`. */
  deliveryMode?: 1 | 2 | 'transient' | 'persistent' | null | undefined
  /** Further headers of the message; a task sees them as `request.headers`. */
  headers?: Readonly<Record<string, unknown>> | null | undefined
  /** Further properties of the message, such as `app_id`. */
  properties?: Readonly<Record<string, unknown>> | null | undefined
  /** Add the result to the children of the running task. Default true. */
  addToParent?: boolean | null | undefined
  /** Store no result of this call. Default: the task's. */
  ignoreResult?: boolean | null | undefined
  /** Queue for results of the rpc backend. Default: the app's own id. */
  replyTo?: string | null | undefined
  groupId?: string | null | undefined
  groupIndex?: number | null | undefined
  /** Signature of the chord's body. */
  chord?: AnySignature | SignatureDict | null | undefined
  /** What follows, last first. */
  chain?: ReadonlyArray<AnySignature | SignatureDict> | null | undefined
  /** Default: that of the running task, else the task's own id. */
  rootId?: string | null | undefined
  /** Default: the running task. */
  parentId?: string | null | undefined
  /** How often it was retried. */
  retries?: number | null | undefined
  /** Default `gen<pid>@<host>`. */
  origin?: string | null | undefined
  replacedTaskNesting?: number | null | undefined
  /** What logs show for the arguments. Default: as Python prints them. */
  argsrepr?: string | null | undefined
  /** What logs show for the keyword arguments. */
  kwargsrepr?: string | null | undefined
  /** Values by name that travel as stamps. */
  stamps?: Readonly<Record<string, unknown>> | null | undefined
  /** Route as a task of this name would be. */
  routeName?: string | null | undefined
}

/** Options under Celery's own names, as they stand in signatures: `task_id`, `link_error`, `stamped_headers`. */
export type WireOptions = Record<string, unknown>

/** Every option that a call may have, with Celery's name. */
const CALL_OPTIONS = {
  countdown: 'countdown',
  eta: 'eta',
  expires: 'expires',
  taskId: 'task_id',
  retry: 'retry',
  retryPolicy: 'retry_policy',
  link: 'link',
  linkError: 'link_error',
  shadow: 'shadow',
  timeLimit: 'time_limit',
  softTimeLimit: 'soft_time_limit',
  queue: 'queue',
  exchange: 'exchange',
  exchangeType: 'exchange_type',
  routingKey: 'routing_key',
  priority: 'priority',
  serializer: 'serializer',
  compression: 'compression',
  deliveryMode: 'delivery_mode',
  headers: 'headers',
  properties: 'properties',
  addToParent: 'add_to_parent',
  ignoreResult: 'ignore_result',
  replyTo: 'reply_to',
  groupId: 'group_id',
  groupIndex: 'group_index',
  chord: 'chord',
  chain: 'chain',
  rootId: 'root_id',
  parentId: 'parent_id',
  retries: 'retries',
  origin: 'origin',
  replacedTaskNesting: 'replaced_task_nesting',
  argsrepr: 'argsrepr',
  kwargsrepr: 'kwargsrepr',
  stampedHeaders: 'stamped_headers',
  stamps: 'stamps',
  routeName: 'route_name',
} as const satisfies Record<Exclude<keyof ApplyAsyncOptions, 'kwargs'> | 'stampedHeaders', string>

const WIRE_NAMES = new Map<string, string>(Object.entries(CALL_OPTIONS))

/** Celery's names of all options. */
export const wireOptionNames: ReadonlySet<string> = new Set(WIRE_NAMES.values())

/** Options in either spelling under Celery's names. Names that are no options stay as they are. */
export function readOptions(options: ApplyAsyncOptions | Readonly<Record<string, unknown>>): WireOptions {
  const wire: WireOptions = {}
  for (const [name, value] of Object.entries(options))
    if (value !== undefined) wire[WIRE_NAMES.get(name) ?? name] = value
  const { stamps } = wire
  if (typeof stamps === 'object' && stamps !== null) {
    delete wire['stamps']
    wire['stamped_headers'] = [
      ...((wire['stamped_headers'] as string[] | undefined) ?? []),
      ...Object.keys(stamps),
    ]
    Object.assign(wire, stamps)
  }
  return wire
}

/** The id that options give a task, else a new one; ERR_CELERIAC_INVALID_ARGUMENT for what is no id. */
export function taskIdOf(options: WireOptions, otherwise: () => string = randomUUID): string {
  const id = options['task_id']
  if (id === undefined || id === null) return otherwise()
  if (typeof id === 'string' && id !== '') return id
  throw new CeleriacError(
    'ERR_CELERIAC_INVALID_ARGUMENT',
    `taskId must be a string that is not empty, not ${typeof id === 'bigint' ? `${id}n` : (JSON.stringify(id) ?? typeof id)}`,
  )
}
