/** Both kinds of workers on one broker, and a client of ours. */

import { join } from 'node:path'
import { Celery, type CeleryOptions } from 'celeriac'
import { Ledger } from './ledger.ts'
import { type PythonApp, pythonApp, type Running, startWorker } from './processes.ts'
import { pythonTasks } from './python-tasks.ts'

/** The tasks of our workers. */
export const nodeTasks = join(import.meta.dirname, 'apps', 'tasks.ts')

export interface Fleet {
  /** What the tasks did. */
  ledger: Ledger
  /** A client of ours. */
  app: Celery
  /** A client of Python's, and its workers. */
  python: PythonApp
  /** Starts a worker of ours that takes from these queues (`node` unless named). */
  nodeWorker(options?: { queues?: string; args?: string[]; env?: Record<string, string> }): Promise<Running>
  /** Starts a worker of Python's that takes from these queues (`python` unless named). */
  pythonWorker(options?: { queues?: string; args?: string[] }): Promise<Running>
  /** Ends every worker and the client. */
  stop(): Promise<void>
}

/** A broker and a result backend with nobody on them yet. */
export function fleet(broker: string, backend: string, settings: CeleryOptions = {}): Fleet {
  const ledger = new Ledger()
  const app = new Celery('client', { broker, backend, ...settings })
  const python = pythonApp(broker, backend, pythonTasks, { LEDGER: ledger.path })
  const workers: Running[] = []
  return {
    ledger,
    app,
    python,
    async nodeWorker({ queues = 'node', args = [], env = {} } = {}) {
      const urls = { CELERY_BROKER_URL: broker, CELERY_RESULT_BACKEND: backend }
      const worker = await startWorker(nodeTasks, ['-Q', queues, ...args], {
        env: { ...urls, LEDGER: ledger.path, ...env },
      })
      workers.push(worker)
      return worker
    },
    async pythonWorker({ queues = 'python', args = [] } = {}) {
      const worker = await python.worker(['-Q', queues, ...args])
      workers.push(worker)
      return worker
    },
    async stop() {
      await app.close()
      await Promise.all(workers.map((worker) => worker.end('SIGKILL')))
      ledger.close()
    },
  }
}
