import {
  bool,
  choice,
  either,
  int,
  name,
  nullable,
  seconds,
  setting,
  string,
  stringOrNumber,
} from '../parse.ts'
import type { Table } from '../parse.ts'

/** Settings of workers. */
export interface WorkerSettings {
  /** The class of an agent that runs in the worker. */
  workerAgent: string | null
  /** The class that grows and shrinks the pool. */
  workerAutoscaler: string
  /** Whether running late tasks are cancelled when the connection to the broker is lost. */
  workerCancelLongRunningTasksOnConnectionLoss: boolean
  /** Seconds for running tasks between a warm and a cold shutdown; 0 is none. */
  workerSoftShutdownTimeout: number
  /** Whether a soft shutdown waits when no task runs. */
  workerEnableSoftShutdownOnIdle: boolean
  /** How many tasks run at once; null is the pool's default: 100 for `async`, the number of CPUs for processes. */
  workerConcurrency: number | 'auto' | null
  /** The class of the consumer. */
  workerConsumer: string
  /** Whether the worker has a queue of its own too, `HOSTNAME.dq2`. */
  workerDirect: boolean
  /** Whether rate limits are ignored. */
  workerDisableRateLimits: boolean
  /** Whether a redelivered task whose result says SUCCESS is not run again. */
  workerDeduplicateSuccessfulTasks: boolean
  /** Whether the worker listens to remote control. */
  workerEnableRemoteControl: boolean
  /** Whether logging set up by others is replaced. */
  workerHijackRootLogger: boolean
  /** Whether log lines have colours; null asks whether the output is a terminal. */
  workerLogColor: boolean | null
  /** The format of times in log lines. */
  workerLogDatefmt: string | null
  /** The format of log lines. */
  workerLogFormat: string
  /** Seconds to wait for the result of a process that ended. */
  workerLostWait: number
  /** The memory in KiB above which a process of the pool is replaced. */
  workerMaxMemoryPerChild: number | null
  /** The number of tasks after which a process of the pool is replaced. */
  workerMaxTasksPerChild: number | null
  /** The pool: `async`, `threads`, `prefork`, `solo`, or one of your own. */
  workerPool: string
  /** Whether processes are only given what they can take. */
  workerPoolPutlocks: boolean
  /** Whether remote control may restart the pool. */
  workerPoolRestarts: boolean
  /** How processes of the pool begin. */
  workerPoolStartMethod: 'fork' | 'spawn'
  /** Seconds in which a new process of the pool must answer. */
  workerProcAliveTimeout: number
  /** How many messages are held for each task that can run at once; 0 sets no limit. */
  workerPrefetchMultiplier: number
  /** How many tasks with a later time are held on top; null sets no limit. */
  workerEtaTaskLimit: number | null
  /** Whether less is held after a reconnect until the tasks that were running are done. */
  workerEnablePrefetchCountReduction: boolean
  /** Whether a message is fetched only when a task can run at once. */
  workerDisablePrefetch: boolean
  /** Whether output of tasks goes into the log. */
  workerRedirectStdouts: boolean
  /** The level of that output. */
  workerRedirectStdoutsLevel: 'DEBUG' | 'INFO' | 'WARNING' | 'ERROR' | 'CRITICAL' | 'FATAL'
  /** Whether events are sent. */
  workerSendTaskEvents: boolean
  /** The file that keeps revoked ids over restarts. */
  workerStateDb: string | null
  /** The format of times in log lines of tasks. */
  workerTaskLogDatefmt: string | null
  /** The format of log lines of tasks. */
  workerTaskLogFormat: string
  /** The class of the timer. */
  workerTimer: string | null
  /** Seconds between two looks of the timer. */
  workerTimerPrecision: number
  /** Whether quorum queues have a prefetch of their own; here every queue has. */
  workerDetectQuorumQueues: boolean

  /** The default of `--logfile`. */
  workerLogfile: string | null
  /** The default of `--pidfile`. */
  workerPidfile: string | null
  /** The default of `--uid`. */
  workerUid: string | number | null
  /** The default of `--gid`. */
  workerGid: string | number | null
  /** The default of `--umask`. */
  workerUmask: string | number | null
  /** The default of `--executable`. */
  workerExecutable: string | null
}

const level = choice('string', 'DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL', 'FATAL')

export const workerSettings: Table<WorkerSettings> = {
  workerAgent: setting(nullable(string), null),
  workerAutoscaler: setting(name, 'celery.worker.autoscale:Autoscaler'),
  workerCancelLongRunningTasksOnConnectionLoss: setting(bool, false),
  workerSoftShutdownTimeout: setting(seconds, 0),
  workerEnableSoftShutdownOnIdle: setting(bool, false),
  workerConcurrency: setting(nullable(either(int(), choice('string', 'auto'), 'any')), null),
  workerConsumer: setting(name, 'celery.worker.consumer:Consumer'),
  workerDirect: setting(bool, false),
  workerDisableRateLimits: setting(bool, false),
  workerDeduplicateSuccessfulTasks: setting(bool, false),
  workerEnableRemoteControl: setting(bool, true),
  workerHijackRootLogger: setting(bool, true),
  workerLogColor: setting(nullable(bool), null),
  workerLogDatefmt: setting(nullable(string), null),
  workerLogFormat: setting(string, '[%(asctime)s: %(levelname)s/%(processName)s] %(message)s'),
  workerLostWait: setting(seconds, 10),
  workerMaxMemoryPerChild: setting(nullable(int(1)), null),
  workerMaxTasksPerChild: setting(nullable(int(1)), null),
  workerPool: setting(name, 'prefork'),
  workerPoolPutlocks: setting(bool, true),
  workerPoolRestarts: setting(bool, false),
  workerPoolStartMethod: setting(choice('string', 'fork', 'spawn'), 'fork'),
  workerProcAliveTimeout: setting(seconds, 4),
  workerPrefetchMultiplier: setting(int(), 4),
  workerEtaTaskLimit: setting(nullable(int()), null),
  workerEnablePrefetchCountReduction: setting(bool, true),
  workerDisablePrefetch: setting(bool, false),
  workerRedirectStdouts: setting(bool, true),
  workerRedirectStdoutsLevel: setting(level, 'WARNING'),
  workerSendTaskEvents: setting(bool, false),
  workerStateDb: setting(nullable(string), null),
  workerTaskLogDatefmt: setting(nullable(string), null),
  workerTaskLogFormat: setting(
    string,
    '[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s',
  ),
  workerTimer: setting(nullable(string), null),
  workerTimerPrecision: setting(seconds, 1),
  workerDetectQuorumQueues: setting(bool, true),

  workerLogfile: setting(nullable(string), null),
  workerPidfile: setting(nullable(string), null),
  workerUid: setting(nullable(stringOrNumber), null),
  workerGid: setting(nullable(stringOrNumber), null),
  workerUmask: setting(nullable(stringOrNumber), null),
  workerExecutable: setting(nullable(string), null),
}
