import { flushLog, getLogger } from '../log/logger.ts'
import { Deferred } from './deferred.ts'

/** What a shutdown needs of its worker. */
export interface Stoppable {
  readonly active: number
  stop(): Promise<void>
  terminate(): Promise<void>
  cancelActive(): void
}

/** Signals that end a worker. */
export type EndSignal = 'SIGTERM' | 'SIGINT' | 'SIGQUIT'

/** How to shut down. */
export interface ShutdownOptions {
  /** `workerSoftShutdownTimeout`: seconds that a cold shutdown gives running tasks first. */
  readonly softTimeout: number
  /** `workerEnableSoftShutdownOnIdle`: wait also when no task runs. */
  readonly softOnIdle: boolean
  /** Whether SIGTERM is to act as SIGQUIT (`REMAP_SIGTERM=SIGQUIT`). */
  readonly remapSigterm: boolean
  /** Writes a line for whoever looks at the terminal. */
  say(line: string): void
  /** Ends the process at once. */
  exit(code: number): void
}

const log = getLogger('celery.worker')

/**
 * What signals do to a worker, as in `celery.apps.worker`. The first SIGTERM or SIGINT ends it warmly: running tasks are
 * waited for. The second, or SIGQUIT, ends it coldly: after the soft time-out, running tasks are given up. Another one
 * during that time-out gives them up at once, and yet another ends the process. In Celery SIGTERM never counts as a
 * second one: see docs/differences.md.
 */
export class Shutdown {
  readonly #worker: Stoppable
  readonly #options: ShutdownOptions
  readonly #ended = new Deferred<number>()
  #stage: 'running' | 'warm' | 'soft' | 'cancelled' = 'running'
  #exitCode = 0

  constructor(worker: Stoppable, options: ShutdownOptions) {
    this.#worker = worker
    this.#options = options
  }

  /** Resolves with the exit code when the worker has ended; rejects when it could not be ended properly. */
  get ended(): Promise<number> {
    return this.#ended.promise
  }

  /** Whether a signal or remote control has asked for the end. */
  get requested(): boolean {
    return this.#stage !== 'running'
  }

  /** Obeys a signal. */
  handle(signal: EndSignal): void {
    const isHard = signal === 'SIGQUIT' || (signal === 'SIGTERM' && this.#options.remapSigterm)
    if (signal === 'SIGTERM' && !isHard && this.#stage === 'running') {
      this.#warm(0)
      return
    }
    if (signal === 'SIGINT' && this.#stage === 'running') {
      this.#options.say('worker: Ctrl+C again gives up the tasks that are running (cold shutdown)')
      this.#warm(1)
      return
    }
    if (this.#stage === 'running' || this.#stage === 'warm') this.#cold()
    else if (this.#stage === 'soft') {
      this.#stage = 'cancelled'
      this.#options.say('worker: running tasks are given up; waiting for the cold shutdown to complete')
      this.#worker.cancelActive()
    } else {
      flushLog()
      this.#options.exit(1)
    }
  }

  /** Ends the worker warmly, as remote control's `shutdown` does. */
  stop(): void {
    if (this.#stage === 'running') this.#warm(0)
  }

  #warm(exitCode: number): void {
    this.#stage = 'warm'
    this.#exitCode = exitCode
    this.#options.say('worker: Warm shutdown (MainProcess)')
    this.#worker.stop().then(
      () => {
        // A cold shutdown that came meanwhile has the last word.
        if (this.#stage === 'warm') this.#ended.resolve(this.#exitCode)
      },
      (error: unknown) => this.#ended.reject(error),
    )
  }

  #cold(): void {
    this.#exitCode = 1
    this.#stage = 'soft'
    this.#options.say('worker: Cold shutdown (MainProcess)')
    this.#endColdly().then(
      () => this.#ended.resolve(1),
      (error: unknown) => this.#ended.reject(error),
    )
  }

  async #endColdly(): Promise<void> {
    const { softTimeout, softOnIdle } = this.#options
    const { active } = this.#worker
    if (softTimeout > 0 && (active > 0 || softOnIdle)) {
      log.warning(`Initiating Soft Shutdown, terminating in ${softTimeout} seconds`)
      const timer = new Deferred<void>()
      const handle = setTimeout(() => timer.resolve(), softTimeout * 1000)
      // Nothing more is claimed meanwhile; once all is done there is nothing left to wait for.
      const stopped = this.#worker
        .stop()
        .catch((error: unknown) => log.exception('soft shutdown failed', error))
      await Promise.race([timer.promise, active === 0 ? timer.promise : stopped])
      clearTimeout(handle)
    }
    this.#stage = 'cancelled'
    await this.#worker.terminate()
  }
}

const SIGNALS: readonly EndSignal[] = ['SIGTERM', 'SIGINT', 'SIGQUIT']

/** Has the process's signals go to a shutdown; gives a function that takes that back. */
export function listenToSignals(shutdown: Shutdown): () => void {
  const listeners = SIGNALS.map((signal) => [signal, () => shutdown.handle(signal)] as const)
  for (const [signal, listener] of listeners) process.on(signal, listener)
  return () => {
    for (const [signal, listener] of listeners) process.off(signal, listener)
  }
}
