/** A worker for what nobody meant to send, and what became of it. */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Celery } from 'celeriac'
import { afterTest, atMostOnce } from '../after-test.ts'
import type { TestBroker } from '../brokers.ts'
import { Ledger } from '../ledger.ts'
import { celeriac, type Running } from '../processes.ts'
import { temporaryFolder } from '../servers.ts'
import { DeadList } from './dead-list.ts'
import { linesOfLog, type LogLine } from './worker-log.ts'

/** The tasks of {@link HostileWorkers}. */
export const hostileTasks = join(import.meta.dirname, 'hostile-tasks.ts')

/** Workers that share a ledger and a log. */
export class HostileWorkers {
  readonly broker: TestBroker
  readonly ledger = new Ledger()
  readonly client: Celery
  readonly logFile = join(temporaryFolder(), 'worker.log')
  readonly #running = new Set<Running>()

  constructor(broker: TestBroker) {
    this.broker = broker
    this.client = new Celery('client', { broker: broker.url, backend: broker.backend })
    afterTest(this.stop)
  }

  /** Starts one; it is not ready yet. */
  start(queues: string, { lease = 30, args = [] as string[] } = {}): Running {
    const { url, backend } = this.broker
    const worker = celeriac(
      ['-A', hostileTasks, 'worker', '-Q', queues, '-l', 'info', '--json', '-f', this.logFile, ...args],
      {
        env: {
          CELERY_BROKER_URL: url,
          CELERY_RESULT_BACKEND: backend,
          LEDGER: this.ledger.path,
          WORKER_LEASE: String(lease),
        },
      },
    )
    this.#running.add(worker)
    return worker
  }

  /** The ids of the good tasks that ran, each as often as it ran. */
  get good(): string[] {
    return this.ledger.after('good').map((id) => JSON.parse(id) as string)
  }

  /** What the workers have given up. */
  deadList(): DeadList {
    return new DeadList(this.client, this.broker)
  }

  /** The lines of the log, but for those about what went well. */
  complaints(): LogLine[] {
    return [...linesOfLog(this.logFile)].filter(({ level }) => level !== 'INFO' && level !== 'DEBUG')
  }

  /** Ends what still runs, and the client; the end of the test does it too. */
  readonly stop = atMostOnce(async () => {
    await Promise.all([...this.#running].map((worker) => worker.end('SIGKILL')))
    await this.client.close()
    this.ledger.close()
  })
}

/** A process's resident memory now, and the most it ever was, in megabytes. */
export function memoryOf(worker: Running): { now: number; peak: number } {
  const status = readFileSync(`/proc/${worker.child.pid}/status`, 'utf8')
  const megabytes = (name: string): number =>
    Math.round(Number(new RegExp(`${name}:\\s*(\\d+)`).exec(status)?.[1]) / 1024)
  return { now: megabytes('VmRSS'), peak: megabytes('VmHWM') }
}
