import { hostname as hostName } from 'node:os'

import type { Celery } from '../app.ts'
import { CeleriacError } from '../errors.ts'
import { logLevel } from '../log/logger.ts'
import { logNativeRecords } from '../log/setup.ts'
import { callAsync, openNativeWorker } from '../native.ts'
import type { Delivery } from '../request.ts'
import { openPool, type Pool } from './pool/pool.ts'
import { SettlementBatch } from './settlement.ts'
import type { NativeQueue, NativeTask, NativeWorker } from '#native'

/** How a worker differs from what the app's settings say. */
export interface WorkerOptions {
  /** Node name. Default `celery@` and the name of this machine. */
  hostname?: string | undefined
  /** How many tasks run at once. Default `workerConcurrency`, then the pool's own. */
  concurrency?: number | undefined
  /** `async`, `solo`. Default `workerPool`. */
  pool?: string | undefined
  /** Names of the queues to consume. Default `taskQueues`, then the default queue. */
  queues?: readonly string[] | undefined
  /** Names of queues not to consume. */
  excludeQueues?: readonly string[] | undefined
  /** Default `workerPrefetchMultiplier`. */
  prefetchMultiplier?: number | undefined
  /** Soft limit in seconds for tasks that have none. Default `taskSoftTimeLimit`. */
  softTimeLimit?: number | undefined
}

/** MIME types of the names that `acceptContent` takes. */
const CONTENT_TYPES: Readonly<Record<string, string>> = { json: 'application/json' }

/** Consumes queues and runs tasks, in this process, until it is stopped. */
export class Worker {
  readonly app: Celery
  /** Node name. */
  readonly hostname: string
  /** What it consumes. */
  readonly queues: readonly NativeQueue[]
  readonly pool: Pool
  /** The name that the pool was chosen by. */
  readonly poolName: string
  /** How many messages it holds at most, without those that wait for their time; 0 is no limit. */
  readonly prefetch: number
  readonly #settlements: SettlementBatch
  #native: NativeWorker | undefined
  #loop: Promise<void> | undefined
  #closing: Promise<void> | undefined
  /** A cold shutdown: what still runs will run again elsewhere, so its outcome counts no more. */
  #abandoned = false
  #onRemoteShutdown: () => void = () => void this.stop()

  constructor(app: Celery, options: WorkerOptions = {}) {
    const { conf } = app
    this.app = app
    this.hostname = options.hostname ?? `celery@${hostName()}`
    this.queues = chooseQueues(app, options)
    this.poolName = options.pool ?? conf.workerPool
    const concurrency = options.concurrency ?? conf.workerConcurrency
    this.#settlements = new SettlementBatch((batch) => this.#native?.settle(batch))
    this.pool = openPool(this.poolName, {
      concurrency: typeof concurrency === 'number' && concurrency > 0 ? concurrency : null,
      environment: {
        app,
        hostname: this.hostname,
        softTimeLimit: options.softTimeLimit ?? null,
        settle: (settlement) => {
          if (!this.#abandoned) this.#settlements.add(settlement)
        },
      },
    })
    this.prefetch = prefetchCount(
      this.pool.concurrency,
      options.prefetchMultiplier ?? conf.workerPrefetchMultiplier,
    )
  }

  /** Connects and begins to consume; resolves when the worker is ready. */
  async start(): Promise<void> {
    if (this.#native !== undefined)
      throw new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', 'the worker was started before')
    logNativeRecords(logLevel())
    const { app } = this
    const { conf } = app
    const native = openNativeWorker(app.broker.native, app.backend.native, {
      hostname: this.hostname,
      pid: process.pid,
      queues: [...this.queues],
      tasks: [...app.tasks.values()].map(nativeTask),
      concurrency: this.pool.concurrency,
      prefetch: this.prefetch,
      etaTaskLimit: conf.workerEtaTaskLimit,
      leaseMs: conf.workerLease * 1000,
      acceptContent: conf.acceptContent.map((name) => CONTENT_TYPES[name] ?? name),
      resultExpiresMs: conf.resultExpires ? conf.resultExpires * 1000 : null,
      resultExtended: conf.resultExtended,
      controlExchange: conf.workerEnableRemoteControl ? conf.controlExchange : null,
      connectionRetry: conf.brokerConnectionRetry,
      connectionRetryOnStartup: conf.brokerConnectionRetryOnStartup ?? conf.brokerConnectionRetry,
      connectionMaxRetries: conf.brokerConnectionMaxRetries || null,
    })
    this.#native = native
    await callAsync('worker.start', () => native.start())
    this.#loop = this.#consume(native)
  }

  /** Resolves when the worker is over: stopped, and everything that it ran has ended and is settled. */
  async finished(): Promise<void> {
    await this.#loop
    await this.#closing
  }

  /** What to do when remote control asks the worker to stop. Default: {@link stop}. */
  onRemoteShutdown(listener: () => void): void {
    this.#onRemoteShutdown = listener
  }

  /** Warm shutdown: takes nothing more, hands back what has not begun, waits for what runs, closes. */
  stop(): Promise<void> {
    this.#closing ??= this.#stopWarmly()
    return this.#closing
  }

  /** Cold shutdown: fires the signals of what runs, and hands its messages back without waiting. */
  async terminate(
    reason: unknown = new CeleriacError('ERR_CELERIAC_CLOSED', 'the worker ends'),
  ): Promise<void> {
    this.#settlements.flush()
    this.#abandoned = true
    this.pool.abort(reason)
    const native = this.#native
    if (native !== undefined) await callAsync('worker.close', () => native.close())
  }

  /** Numbers about what it holds and has done. */
  stats(): Record<string, unknown> {
    return this.#native === undefined ? {} : (JSON.parse(this.#native.stats()) as Record<string, unknown>)
  }

  /** {@link stop}: `await using worker = new Worker(app)`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  async #stopWarmly(): Promise<void> {
    const native = this.#native
    if (native === undefined) return
    await callAsync('worker.stop', () => native.stop())
    await this.#loop
    await callAsync('worker.close', () => native.close())
  }

  async #consume(native: NativeWorker): Promise<void> {
    for (;;) {
      const batch = await native.next()
      if (batch === null) return
      for (const item of JSON.parse(batch) as Array<Delivery | Notice>) {
        if (typeof item[0] === 'number') void this.pool.run(item as Delivery)
        else this.#heed(item as Notice)
      }
    }
  }

  #heed(notice: Notice): void {
    if (notice[0] === 'shutdown') this.#onRemoteShutdown()
    else if (notice[2]) this.pool.terminate(notice[1])
  }
}

/** What the core tells beside deliveries. */
type Notice = [kind: 'revoke', ids: string[], terminate: boolean, signal: string] | [kind: 'shutdown']

function chooseQueues(app: Celery, options: WorkerOptions): NativeQueue[] {
  const { router } = app
  const named = options.queues?.length
    ? options.queues.map((name) => router.queue(name))
    : router.consumedQueues()
  const excluded = new Set(options.excludeQueues)
  const queues = named.filter((queue) => !excluded.has(queue.name))
  if (queues.length === 0) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      'the worker has no queue left to consume: see -Q and -X',
    )
  }
  return queues
}

/** Above this kombu takes a count for no limit, and so do we. */
const MOST_PREFETCHED = 65_535

function prefetchCount(concurrency: number, multiplier: number): number {
  const count = concurrency * multiplier
  return count > MOST_PREFETCHED ? 0 : count
}

function nativeTask(task: {
  name: string
  acksLate: boolean
  ignoreResult: boolean
  storeErrorsEvenIfIgnored: boolean
  trackStarted: boolean
}): NativeTask {
  const { name, acksLate, ignoreResult, storeErrorsEvenIfIgnored, trackStarted } = task
  return { name, acksLate, ignoreResult, storeErrorsEvenIfIgnored, trackStarted }
}
