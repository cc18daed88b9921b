import type { SettingName, SettingValues } from './settings.ts'

/** A default that is not Celery's. */
export interface DifferingDefault<T> {
  /** Ours. */
  readonly value: T
  /** Why. */
  readonly reason: string
}

/**
 * Every default that is not Celery's, with its reason. Setting Celery's value restores its behaviour; docs/differences.md
 * says more.
 */
export const differingDefaults = {
  taskAcksLate: {
    value: true,
    reason: 'A worker that dies repeats its task on another instead of losing it.',
  },
  taskRejectOnWorkerLost: {
    value: true,
    reason:
      'Late acknowledgement is worth nothing if the message of a killed process is acknowledged all the same.',
  },
  workerPool: {
    value: 'async',
    reason:
      'Task bodies in JavaScript await; one event loop runs a hundred of them at once without a process each.',
  },
} as const satisfies { [K in SettingName]?: DifferingDefault<SettingValues[K]> }
