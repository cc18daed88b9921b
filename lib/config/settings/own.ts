import { int, nullable, seconds, secondsWithin, setting } from '../parse.ts'
import type { Table } from '../parse.ts'

/** Seconds. */
const DAY = 86_400

/** Settings that Celery does not have. */
export interface OwnSettings {
  /** Seconds after which `delay()` rejects when the broker did not take the message, retries included. */
  publishTimeout: number
  /** Seconds, from 1 to a day, for which a worker claims a message, renewed while it lives; what a dead one held comes back then. */
  workerLease: number
  /** Seconds, from 1 to a year, for which the claim of a running task is renewed when JavaScript no longer answers; null is
   * the hard time limit and some grace, or without end where there is none. */
  leaseMaxHold: number | null
  /** How often a task that had begun may be given out again after its worker died; then it fails. Null is without end. */
  maxDeliveries: number | null
  /** How often a task that the worker does not know is put back, for another that may know it, before it fails. */
  workerUnknownTaskRequeues: number
}

export const ownSettings: Table<OwnSettings> = {
  publishTimeout: setting(seconds, 5),
  workerLease: setting(secondsWithin(1, DAY), 30),
  leaseMaxHold: setting(nullable(secondsWithin(1, 365 * DAY)), null),
  maxDeliveries: setting(nullable(int(1)), 5),
  workerUnknownTaskRequeues: setting(int(), 0),
}
