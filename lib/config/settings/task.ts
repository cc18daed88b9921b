import { bool, choice, int, name, nullable, seconds, setting, string } from '../parse.ts'
import type { Table } from '../parse.ts'
import {
  deliveryMode,
  exchangeType,
  retryPolicy,
  taskAnnotations,
  taskQueues,
  taskRoutes,
} from '../parse-structures.ts'
import type {
  DeliveryMode,
  ExchangeType,
  RetryPolicy,
  TaskAnnotations,
  TaskQueues,
  TaskRoutes,
} from '../types.ts'

/** Settings of tasks: how they are sent, where to, and how they run. Most are defaults that a task overrides. */
export interface TaskSettings {
  /** Whether a message is acknowledged after its task has run, rather than before. */
  taskAcksLate: boolean
  /** Whether a late message is acknowledged when its task failed or ran out of time. Celery deprecates it. */
  taskAcksOnFailureOrTimeout: boolean
  /** Whether a late message is acknowledged when its task failed; null takes `taskAcksOnFailureOrTimeout`. */
  taskAcksOnFailure: boolean | null
  /** Whether a late message is acknowledged when its task ran out of time; null takes the one above it. */
  taskAcksOnTimeout: boolean | null
  /** Whether `delay()` runs the task at once and here, without a broker. */
  taskAlwaysEager: boolean
  /** Attributes to change in tasks by name, `*` for all. */
  taskAnnotations: TaskAnnotations | null
  /** How task messages are compressed. */
  taskCompression: string | null
  /** Whether a queue that no setting names is made when it is used. */
  taskCreateMissingQueues: boolean
  /** The type of such queues on RabbitMQ. */
  taskCreateMissingQueueType: 'classic' | 'quorum'
  /** The type of their exchanges; null takes `taskDefaultExchangeType`. */
  taskCreateMissingQueueExchangeType: ExchangeType | null
  /** Whether a task that a task sends has its priority. */
  taskInheritParentPriority: boolean
  /** Whether messages survive a restart of the broker: 2 or `persistent`, 1 or `transient`. */
  taskDefaultDeliveryMode: DeliveryMode
  /** The queue of tasks without a route. */
  taskDefaultQueue: string
  /** The type of that queue on RabbitMQ. */
  taskDefaultQueueType: 'classic' | 'quorum'
  /** The exchange of queues without one; while it is null, reading it gives `taskDefaultQueue`. */
  taskDefaultExchange: string | null
  /** The type of that exchange. */
  taskDefaultExchangeType: ExchangeType
  /** The routing key of queues without one; while it is null, reading it gives `taskDefaultQueue`. */
  taskDefaultRoutingKey: string | null
  /** The rate of tasks without one, such as `100/m`. */
  taskDefaultRateLimit: string | null
  /** The priority of messages without one. */
  taskDefaultPriority: number | null
  /** Whether the error of a task that ran eagerly is thrown. */
  taskEagerPropagates: boolean
  /** Whether results are not stored. */
  taskIgnoreResult: boolean
  /** Whether results of tasks that ran eagerly are stored. */
  taskStoreEagerResult: boolean
  /** The version of the message protocol. */
  taskProtocol: 1 | 2
  /** Whether a publish is retried while the broker is away. */
  taskPublishRetry: boolean
  /** How it is retried. */
  taskPublishRetryPolicy: RetryPolicy
  /** The queues; null is `taskDefaultQueue` alone. */
  taskQueues: TaskQueues | null
  /** The highest priority of every queue, on RabbitMQ. */
  taskQueueMaxPriority: number | null
  /** Whether the message of a late task is put back when the process that ran it died. */
  taskRejectOnWorkerLost: boolean | null
  /** Whether a task whose process died is sent again as a retry, which counts. */
  taskRetryOnWorkerLost: boolean
  /** Whether tracebacks of workers are rebuilt as Python objects. */
  taskRemoteTracebacks: boolean
  /** How deep the arguments in `argsrepr` and `kwargsrepr` are written out. */
  taskReprMaxlevels: number
  /** Where tasks go. */
  taskRoutes: TaskRoutes | null
  /** Whether a `task-sent` event goes out with each task. */
  taskSendSentEvent: boolean
  /** The serializer of task messages. */
  taskSerializer: string
  /** Seconds after which a task is told to stop. */
  taskSoftTimeLimit: number | null
  /** Seconds after which the process of a task is killed. */
  taskTimeLimit: number | null
  /** Whether failures are stored where results are not. */
  taskStoreErrorsEvenIfIgnored: boolean
  /** Whether STARTED is stored when a task begins. */
  taskTrackStarted: boolean
  /** Whether the error callbacks of a chord are also those of each task of its header. */
  taskAllowErrorCbOnChordHeader: boolean
}

const queueType = choice('string', 'classic', 'quorum')

export const taskSettings: Table<TaskSettings> = {
  taskAcksLate: setting(bool, false),
  taskAcksOnFailureOrTimeout: setting(bool, true),
  taskAcksOnFailure: setting(nullable(bool), null),
  taskAcksOnTimeout: setting(nullable(bool), null),
  taskAlwaysEager: setting(bool, false),
  taskAnnotations: setting(nullable(taskAnnotations), null),
  taskCompression: setting(nullable(string), null),
  taskCreateMissingQueues: setting(bool, true),
  taskCreateMissingQueueType: setting(queueType, 'classic'),
  taskCreateMissingQueueExchangeType: setting(nullable(exchangeType), null),
  taskInheritParentPriority: setting(bool, false),
  taskDefaultDeliveryMode: setting(deliveryMode, 2),
  taskDefaultQueue: setting(name, 'celery'),
  taskDefaultQueueType: setting(queueType, 'classic'),
  taskDefaultExchange: setting(nullable(string), null),
  taskDefaultExchangeType: setting(exchangeType, 'direct'),
  taskDefaultRoutingKey: setting(nullable(string), null),
  taskDefaultRateLimit: setting(nullable(string), null),
  taskDefaultPriority: setting(nullable(int()), null),
  taskEagerPropagates: setting(bool, false),
  taskIgnoreResult: setting(bool, false),
  taskStoreEagerResult: setting(bool, false),
  taskProtocol: setting(choice('int', 1, 2), 2),
  taskPublishRetry: setting(bool, true),
  taskPublishRetryPolicy: setting(retryPolicy, {
    maxRetries: 3,
    intervalStart: 0,
    intervalMax: 1,
    intervalStep: 0.2,
  }),
  taskQueues: setting(nullable(taskQueues), null),
  taskQueueMaxPriority: setting(nullable(int()), null),
  taskRejectOnWorkerLost: setting(nullable(bool), null),
  taskRetryOnWorkerLost: setting(bool, false),
  taskRemoteTracebacks: setting(bool, false),
  taskReprMaxlevels: setting(int(), 3),
  taskRoutes: setting(nullable(taskRoutes), null),
  taskSendSentEvent: setting(bool, false),
  taskSerializer: setting(name, 'json'),
  taskSoftTimeLimit: setting(nullable(seconds), null),
  taskTimeLimit: setting(nullable(seconds), null),
  taskStoreErrorsEvenIfIgnored: setting(bool, false),
  taskTrackStarted: setting(bool, false),
  taskAllowErrorCbOnChordHeader: setting(bool, false),
}
