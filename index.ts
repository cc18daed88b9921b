export { Celery, type CeleryOptions } from './lib/app.ts'
export type { ApplyAsyncOptions } from './lib/call-options.ts'
export { maybeSignature, Signature, type AnySignature, type SignatureInit } from './lib/canvas/signature.ts'
export { Settings } from './lib/config/conf.ts'
export type { SettingsInput } from './lib/config/settings.ts'
export type * from './lib/config/types.ts'
export type { RevokeOptions } from './lib/control.ts'
export { currentTask } from './lib/current-task.ts'
export type {
  DeadLetter,
  DeadLetterFilter,
  DeadLetterListOptions,
  DeadLetterReason,
  DeadLetters,
  ReplayOptions,
  WholeDeadLetter,
} from './lib/dead-letters.ts'
export type { DeadMessage } from './lib/dead-message.ts'
export {
  CeleriacError,
  type CeleriacErrorCode,
  Ignore,
  MaxRetriesExceededError,
  NotRegistered,
  QueueNotFound,
  Reject,
  type RemoteException,
  Retry,
  SoftTimeLimitExceeded,
  TaskError,
  TaskRevokedError,
  TimeoutError,
  WorkerLostError,
} from './lib/errors.ts'
export { getTaskLogger } from './lib/log/logger.ts'
export type { DeliveryInfo, Request, SignatureDict } from './lib/request.ts'
export { AsyncResult, EagerResult, type GetOptions, type ResultTuple } from './lib/result.ts'
export type { ResultMeta, ResultStore, StateUpdate, WaitOptions } from './lib/results/store.ts'
export { type SendFailure, SendManyError } from './lib/send-many.ts'
export { DateTime, Decimal, PlainDate, PlainTime, PyFloat, Uuid } from './lib/serialization/types.ts'
export { sharedTask } from './lib/shared-task.ts'
export type { AnyTask, Task } from './lib/task.ts'
export type { TaskContext } from './lib/task-context.ts'
export type { RetryOptions, TaskOptions } from './lib/task-options.ts'
export { Worker, type WorkerOptions } from './lib/worker/worker.ts'
