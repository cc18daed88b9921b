/** Both kinds of workers on one broker, and a client of ours. */

import { join } from 'node:path'
import { Celery, type CeleryOptions } from 'celeriac'
import { afterTest, atMostOnce } from './after-test.ts'
import type { TestBroker } from './brokers.ts'
import { Ledger } from './ledger.ts'
import { type PythonApp, pythonApp, type Running, startWorker } from './processes.ts'
import { pythonTasks } from './python-tasks.ts'

/** The tasks of our workers. */
export const nodeTasks = join(import.meta.dirname, 'apps', 'tasks.ts')

export interface NodeWorkerOptions {
  /** Names, with commas. Default `node`. */
  queues?: string
  args?: string[]
  env?: Record<string, string>
  /** Settings of the worker's app, on top of those of the fleet. */
  settings?: CeleryOptions
}

export interface PythonWorkerOptions {
  /** Names, with commas. Default `python`. */
  queues?: string
  args?: string[]
}

export interface Fleet {
  /** What the tasks did. */
  ledger: Ledger
  /** A client of ours. */
  app: Celery
  /** A client of Python's, and its workers. */
  python: PythonApp
  /** Starts a worker of ours. */
  nodeWorker(options?: NodeWorkerOptions): Promise<Running>
  /** Starts a worker of Python's: one task at a time, unless `args` say otherwise. */
  pythonWorker(options?: PythonWorkerOptions): Promise<Running>
  /** Ends every worker and the client; the end of the test does it too. */
  stop(): Promise<void>
}

export interface FleetOptions {
  /** Settings of the client. */
  settings?: CeleryOptions
  /** Settings of our workers. */
  node?: CeleryOptions
  /** Settings of Python's workers and client, in Python's names. */
  python?: Record<string, unknown>
}

/** A broker and a result backend with nobody on them yet. */
export function fleet(broker: TestBroker, options?: FleetOptions): Fleet
export function fleet(broker: string, backend: string, settings?: CeleryOptions): Fleet
export function fleet(
  broker: TestBroker | string,
  second?: FleetOptions | string,
  settings?: CeleryOptions,
): Fleet {
  if (typeof broker !== 'string') {
    const options = second as FleetOptions | undefined
    return fleetAt(broker.url, broker.backend, {
      ...options,
      python: { ...broker.python, ...options?.python },
    })
  }
  return fleetAt(broker, second as string, settings === undefined ? {} : { settings })
}

/** {@link fleet} on servers of whatever kind. */
export function fleetAt(broker: string, backend: string, options: FleetOptions = {}): Fleet {
  const ledger = new Ledger()
  const app = new Celery('client', { broker, backend, ...options.settings })
  const env = { LEDGER: ledger.path }
  const python = pythonApp(broker, backend, pythonTasks, { env, settings: options.python ?? {} })
  const workers: Running[] = []
  const stop = atMostOnce(async () => {
    // The workers go even where the client cannot.
    try {
      await app.close()
    } finally {
      await Promise.all(workers.map((worker) => worker.end('SIGKILL')))
      ledger.close()
    }
  })
  afterTest(stop)
  return {
    ledger,
    app,
    python,
    async nodeWorker({ queues = 'node', args = [], env: more = {}, settings = {} } = {}) {
      const urls = { CELERY_BROKER_URL: broker, CELERY_RESULT_BACKEND: backend }
      const given = { SETTINGS: JSON.stringify({ ...options.node, ...settings }) }
      const worker = await startWorker(nodeTasks, ['-Q', queues, ...args], {
        env: { ...urls, ...env, ...given, ...more },
      })
      workers.push(worker)
      return worker
    },
    async pythonWorker({ queues = 'python', args = [] } = {}) {
      const worker = await python.worker(['-Q', queues, ...args])
      workers.push(worker)
      return worker
    },
    stop,
  }
}
