import { CeleriacError } from '../errors.ts'
import { getLogger } from '../log/logger.ts'
import type { Worker } from './worker.ts'

/** How a worker ends that was started from the command line. */
export interface ShutdownOptions {
  /** `worker_soft_shutdown_timeout`: seconds that a cold shutdown waits first; 0 is none. */
  readonly softTimeout: number
  /** Says something to the person at the terminal. */
  readonly say: (text: string) => void
}

/** Exit codes as Celery's workers have them. */
const EXIT_OK = 0
const EXIT_FAILURE = 1

/**
 * Runs a started worker until it ends, and gives the exit code (`celery.apps.worker`):
 *
 * - SIGTERM, or remote control: warm, exit code 0;
 * - the first SIGINT: warm, exit code 1;
 * - the second SIGINT, or SIGQUIT: cold, after the soft timeout;
 * - one more: at once.
 */
export function runUntilShutdown(worker: Worker, options: ShutdownOptions): Promise<number> {
  return new Shutdown(worker, options).run()
}

class Shutdown {
  readonly #worker: Worker
  readonly #options: ShutdownOptions
  #stage: 'running' | 'warm' | 'cold' = 'running'
  #end: (code: number) => void = () => {}
  #fail: (reason: unknown) => void = () => {}

  constructor(worker: Worker, options: ShutdownOptions) {
    this.#worker = worker
    this.#options = options
  }

  async run(): Promise<number> {
    const over = new Promise<number>((resolve, reject) => {
      this.#end = resolve
      this.#fail = reject
    })
    const signals = {
      SIGTERM: () => this.#warm(EXIT_OK),
      SIGINT: () => this.#interrupt(),
      SIGQUIT: () => this.#escalate(),
    } as const
    for (const [signal, listener] of Object.entries(signals)) process.on(signal, listener)
    this.#worker.onRemoteShutdown(() => this.#warm(EXIT_OK))
    this.#worker.finished().catch(this.#fail)
    try {
      return await over
    } finally {
      for (const [signal, listener] of Object.entries(signals)) process.off(signal, listener)
    }
  }

  #interrupt(): void {
    if (this.#stage !== 'running') return this.#escalate()
    this.#options.say(
      '\nceleriac: Hitting Ctrl+C again will initiate cold shutdown, ending all running tasks!',
    )
    this.#warm(EXIT_FAILURE)
  }

  #warm(code: number): void {
    if (this.#stage !== 'running') return
    this.#stage = 'warm'
    this.#options.say('\nworker: Warm shutdown (MainProcess)')
    this.#worker.stop().then(() => this.#stage === 'warm' && this.#end(code), this.#fail)
  }

  #escalate(): void {
    if (this.#stage === 'cold') return this.#end(EXIT_FAILURE)
    this.#stage = 'cold'
    this.#options.say('\nworker: Cold shutdown (MainProcess)')
    this.#cold().then(() => this.#end(EXIT_FAILURE), this.#fail)
  }

  async #cold(): Promise<void> {
    const { softTimeout } = this.#options
    if (softTimeout > 0) {
      getLogger('celery.worker').warning(`Initiating Soft Shutdown, terminating in ${softTimeout} seconds`)
      let timer: NodeJS.Timeout | undefined
      const passed = new Promise<void>((resolve) => (timer = setTimeout(resolve, softTimeout * 1000)))
      await Promise.race([this.#worker.stop(), passed])
      clearTimeout(timer)
    }
    await this.#worker.terminate(
      new CeleriacError('ERR_CELERIAC_CLOSED', 'the worker was told to end without waiting'),
    )
  }
}
