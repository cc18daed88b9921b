import { int, nullable, seconds, setting } from '../parse.ts'
import type { Table } from '../parse.ts'

/** Settings that Celery does not have. */
export interface OwnSettings {
  /** Seconds after which `delay()` rejects when the broker did not take the message, retries included. */
  publishTimeout: number
  /** Seconds for which a worker claims a message, renewed while it lives; what a dead one held comes back then. */
  workerLease: number
  /** Seconds for which the claim of a running task is renewed when JavaScript no longer answers; null is the hard
   * time limit and some grace, or without end where there is none. */
  leaseMaxHold: number | null
  /** How often a task that had begun may be given out again after its worker died; then it fails. Null is without end. */
  maxDeliveries: number | null
  /** How often a task that the worker does not know is put back, for another that may know it, before it fails. */
  workerUnknownTaskRequeues: number
}

export const ownSettings: Table<OwnSettings> = {
  publishTimeout: setting(seconds, 5),
  workerLease: setting(seconds, 30),
  leaseMaxHold: setting(nullable(seconds), null),
  maxDeliveries: setting(nullable(int(1)), 5),
  workerUnknownTaskRequeues: setting(int(), 0),
}
