import type { Celery } from '../app.ts'
import { CeleriacError, WorkerLostError } from '../errors.ts'
import { nodeName } from '../log/node-name.ts'
import { getLogger, logLevel } from '../log/logger.ts'
import { logNativeRecords } from '../log/setup.ts'
import { call, callAsync, native } from '../native.ts'
import type { Delivery } from '../request.ts'
import type { NativeQueue, NativeResults, NativeWorker, NativeWorkerOptions } from '#native'
import type { Pool, PoolDefinition } from './pool/pool.ts'
import { asyncPool } from './pool/async.ts'
import { poolNamed } from './pool/pools.ts'
import { type Item, readBatch } from './batch.ts'
import { Deferred } from './deferred.ts'
import { Gate } from './gate.ts'
import { TaskRunner } from './run-task.ts'
import { outcomes, Settler } from './settle.ts'
import { TaskLog } from './task-log.ts'

/** How a worker works; what is left out comes from the app's settings. */
export interface WorkerOptions {
  /** Node name; `%h`, `%n`, `%d` stand for the host and its parts. Default `celery@%h`. */
  readonly hostname?: string | undefined
  /** How many tasks run at once. Default `workerConcurrency`, else the pool's own: 100 for `async`. */
  readonly concurrency?: number | undefined
  /** Name of a pool. Default `workerPool` where it was set, else `async`. */
  readonly pool?: string | undefined
  /** Names of the queues to consume. Default: `taskQueues`, or the default queue. */
  readonly queues?: readonly string[] | undefined
  /** Queues of those not to consume. */
  readonly excludeQueues?: readonly string[] | undefined
  /** Messages held for each task that can run at once; 0 is no limit. Default `workerPrefetchMultiplier`. */
  readonly prefetchMultiplier?: number | undefined
  /** Seconds. Default `taskSoftTimeLimit`. */
  readonly softTimeLimit?: number | null | undefined
}

/** Opens the core's side of a worker; another one in tests. */
export type OpenWorker = (app: Celery, options: NativeWorkerOptions) => NativeWorker

/** Numbers about a worker. */
export interface WorkerStats {
  /** Tasks by what became of them, and what is held; see `stats` in crates/celeriac-worker. */
  readonly [name: string]: unknown
}

const log = getLogger('celery.worker')

/** How often the core is told that this event loop runs, in milliseconds: see `Worker::beat` in crates/celeriac-worker. */
const HEARTBEAT_MS = 1000
/** What aborts the tasks that run when a worker is ended by force. */
const ENDED = 'the worker is shutting down'
/** What {@link Worker.finished} rejects with when the core has ended by itself. */
const CANNOT_GO_ON =
  'the worker ended although nobody ended it: the line that its log has about this says why'
/** How long an ending by force waits for the broker, in milliseconds. */
const CLOSE_DEADLINE_MS = 5000

/**
 * Takes an app's tasks from its queues and runs them, until it is stopped:
 * `await using worker = new Worker(app); await worker.start()`.
 */
export class Worker {
  readonly app: Celery
  /** Node name. */
  readonly hostname: string
  readonly concurrency: number
  /** Messages that are held at most, those that run included; 0 is no limit. */
  readonly prefetch: number
  readonly queues: readonly NativeQueue[]
  readonly poolDefinition: PoolDefinition
  readonly #open: OpenWorker
  readonly #settler: Settler
  readonly #runner: TaskRunner
  readonly #pool: Pool
  #native: NativeWorker | undefined
  /** `maxDeliveries` as the core was told. */
  #maxDeliveries: number | null = null
  #heartbeat: NodeJS.Timeout | undefined
  #consuming: Promise<void> | undefined
  #stopping: Promise<void> | undefined
  #ending: Promise<void> | undefined
  #closing: Promise<void> | undefined
  /** Why the last start failed. */
  #startError: { readonly error: unknown } | undefined
  /** Takes back that the app stops it when it is closed. */
  #leaveApp: (() => void) | undefined
  /** Resolves with {@link #ending}: what a warm stop waits for no longer matters then. */
  readonly #forced = new Deferred<void | Promise<void>>()
  #onShutdown: (() => void) | undefined

  constructor(app: Celery, options: WorkerOptions = {}, open: OpenWorker = openNativeWorker) {
    const { conf } = app
    this.app = app
    this.hostname = nodeName(options.hostname)
    this.poolDefinition = poolOf(app, options)
    this.concurrency = concurrencyOf(app, options, this.poolDefinition)
    this.prefetch = this.concurrency * (options.prefetchMultiplier ?? conf.workerPrefetchMultiplier)
    this.queues = queuesOf(app, options)
    this.#open = open
    this.#settler = new Settler((batch) => call('worker.settle', () => this.#native?.settle(batch)))
    this.#runner = new TaskRunner({
      app,
      hostname: this.hostname,
      settler: this.#settler,
      log: new TaskLog(),
      softTimeLimit: options.softTimeLimit === undefined ? conf.taskSoftTimeLimit : options.softTimeLimit,
    })
    this.#pool = this.poolDefinition.create(this.#runner)
  }

  /** How many tasks run. */
  get active(): number {
    return this.#pool.active
  }

  /** What runs, as `name[id]`: the tasks whose outcome is open. */
  get running(): readonly string[] {
    return [...this.#runner.running.values()]
      .filter(({ settled }) => !settled)
      .map(({ id, name }) => `${name}[${id}]`)
  }

  /** What remote control's `shutdown` calls instead of {@link stop}. */
  set onShutdown(listener: () => void) {
    this.#onShutdown = listener
  }

  /**
   * Connects and begins to take tasks. Resolves when it does. Where that fails it can be started again; once it was
   * stopped it cannot, ERR_CELERIAC_CLOSED. The app stops it when it is closed.
   */
  async start(): Promise<void> {
    if (this.#isEnding) throw this.#stopped()
    if (this.#native !== undefined) {
      throw new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', `worker ${this.hostname} was started already`)
    }
    logNativeRecords(logLevel())
    const options = this.#nativeOptions()
    this.#maxDeliveries = options.maxDeliveries ?? null
    const worker = this.#open(this.app, options)
    this.#native = worker
    this.#startError = undefined
    this.#leaveApp = this.app.onClose(() => this.#stopWithApp())
    try {
      await callAsync('worker.start', () => worker.start())
    } catch (error) {
      if (!this.#isEnding) await this.#undoStart(worker, error)
      throw error
    }
    if (this.#isEnding) throw this.#stopped()
    this.#heartbeat = setInterval(() => worker.beat(), HEARTBEAT_MS).unref()
    this.#consuming = this.#consume(worker).finally(() => clearInterval(this.#heartbeat))
    // Whoever wants to know of it asks finished().
    this.#consuming.catch(() => {})
  }

  /** Resolves when it has ended, by {@link stop} or {@link terminate}; rejects when it could not go on. */
  async finished(): Promise<void> {
    if (this.#startError !== undefined) throw this.#startError.error
    try {
      await Promise.race([this.#consuming, this.#forced.promise])
    } catch (error) {
      // What an end cuts off is no failure.
      if (!this.#isEnding || !isClosed(error)) throw error
    }
    await (this.#ending ?? this.#stopping)
  }

  /**
   * Ends it warmly: nothing more is claimed, what was not begun goes back to its queue at once, what runs is waited
   * for, until {@link terminate} is called. Calling it again gives the same promise; before {@link start} it does
   * nothing.
   */
  stop(): Promise<void> {
    if (this.#ending !== undefined) return this.#ending
    if (this.#native === undefined) return Promise.resolve()
    this.#stopping ??= this.#stop(this.#native)
    return this.#stopping
  }

  /**
   * Ends it coldly: the signals of running tasks fire, their messages go back to their queues, and nothing they do
   * from then on is stored. Resolves within a few seconds, whatever the broker does. Before {@link start} it does
   * nothing.
   */
  terminate(): Promise<void> {
    if (this.#ending !== undefined) return this.#ending
    if (this.#native === undefined) return Promise.resolve()
    this.#ending = this.#terminate(this.#native)
    this.#forced.resolve(this.#ending)
    return this.#ending
  }

  /** Gives up the tasks that run, as {@link terminate} does, and goes on. */
  cancelActive(): void {
    this.#pool.cancelAll(new CeleriacError('ERR_CELERIAC_CLOSED', ENDED))
  }

  /** Settles a task that runs as failed with that, whatever its body does from then on. */
  failTask(taskId: string, error: unknown): void {
    this.#pool.fail(taskId, error)
  }

  /** {@link stop}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  /** Marks tasks as revoked, as remote control does. */
  revoke(taskIds: readonly string[], options: { terminate?: boolean } = {}): void {
    call('worker.revoke', () => this.#native?.revoke([...taskIds]))
    if (options.terminate) this.#pool.terminate(taskIds)
  }

  /** Numbers about it. */
  stats(): WorkerStats {
    const text = call('worker.stats', () => this.#native?.stats())
    return text === undefined ? {} : (JSON.parse(text) as WorkerStats)
  }

  async #consume(worker: NativeWorker): Promise<void> {
    const gate = new Gate(worker)
    const take = (item: Item): void => this.#dispatch(worker, gate, item)
    for (;;) {
      const batch = await callAsync('worker.next', () => worker.next())
      if (batch === null) {
        if (!this.#isEnding) throw new CeleriacError('ERR_CELERIAC_INTERNAL', CANNOT_GO_ON)
        return
      }
      gate.renew()
      readBatch(batch, take)
    }
  }

  #dispatch(worker: NativeWorker, gate: Gate, item: Item): void {
    if (item.kind === 'task') {
      const { delivery, slot } = item
      if (item.isCounted) void this.#beginAgain(worker, delivery)
      else if (gate.begin(delivery[0], slot)) this.#pool.begin(delivery)
    } else if (item.kind === 'revoke') {
      if (item.terminates) this.#pool.terminate(item.ids)
    } else if (this.#onShutdown !== undefined) this.#onShutdown()
    else this.stop().catch((error: unknown) => log.exception('could not stop after a remote shutdown', error))
  }

  /** Counts how often the body of a task has begun that comes back from a worker that was lost. */
  async #beginAgain(worker: NativeWorker, delivery: Delivery): Promise<void> {
    const maxDeliveries = this.#maxDeliveries
    let count: number
    try {
      count = await callAsync('worker.beginAgain', () => worker.beginAgain(delivery[0]))
    } catch (error) {
      log.exception(`task ${delivery[2]} could not be begun`, error)
      this.#settler.settle({ tag: delivery[0], outcome: outcomes.handBack, state: null })
      return
    }
    if (count === 0) return
    if (maxDeliveries !== null && count > maxDeliveries) {
      this.#pool.lose(delivery, new WorkerLostError(maxDeliveries))
    } else this.#pool.begin(delivery)
  }

  get #isEnding(): boolean {
    return this.#stopping !== undefined || this.#ending !== undefined
  }

  #stopped(): CeleriacError {
    return new CeleriacError(
      'ERR_CELERIAC_CLOSED',
      `worker ${this.hostname} was stopped: make another to go on`,
    )
  }

  /** As if it had never been started, but for {@link finished}. */
  async #undoStart(worker: NativeWorker, error: unknown): Promise<void> {
    this.#startError = { error }
    this.#native = undefined
    this.#leaveApp?.()
    const closing = callAsync('worker.close', () => worker.close())
    // The failure to start is what counts.
    await withinDeadline(closing, CLOSE_DEADLINE_MS).catch(() => {})
  }

  async #stopWithApp(): Promise<void> {
    try {
      await this.stop()
    } catch (error) {
      log.exception(`could not stop worker ${this.hostname} when its app was closed`, error)
    }
  }

  async #stop(worker: NativeWorker): Promise<void> {
    try {
      await Promise.race([this.#stopWarmly(worker), this.#forced.promise])
    } catch (error) {
      if (this.#ending === undefined) throw error
      await this.#ending
    }
  }

  async #stopWarmly(worker: NativeWorker): Promise<void> {
    try {
      await callAsync('worker.stop', () => worker.stop())
      await this.#pool.idle()
      this.#settler.flush()
      await this.#consuming
      // A batch may have come between the last look and the end.
      await this.#pool.idle()
    } finally {
      this.#settler.flush()
      await this.#close(worker)
    }
  }

  async #terminate(worker: NativeWorker): Promise<void> {
    const stopping = callAsync('worker.stop', () => worker.stop())
    this.cancelActive()
    await withinDeadline(
      stopping.finally(() => this.#close(worker)),
      CLOSE_DEADLINE_MS,
    )
  }

  #close(worker: NativeWorker): Promise<void> {
    this.#closing ??= callAsync('worker.close', () => worker.close())
    this.#leaveApp?.()
    return this.#closing
  }

  #nativeOptions(): NativeWorkerOptions {
    const { app } = this
    const { conf } = app
    return {
      hostname: this.hostname,
      pid: process.pid,
      queues: [...this.queues],
      tasks: [...app.tasks.values()].map((task) => ({
        name: task.name,
        acksLate: task.acksLate,
        ignoreResult: task.ignoreResult,
        storeErrorsEvenIfIgnored: task.storeErrorsEvenIfIgnored,
        trackStarted: task.trackStarted,
      })),
      concurrency: this.concurrency,
      prefetch: this.prefetch,
      etaTaskLimit: conf.workerEtaTaskLimit,
      leaseMs: 1000 * conf.workerLease,
      leaseMaxHoldMs: conf.leaseMaxHold === null ? null : 1000 * conf.leaseMaxHold,
      maxDeliveries: conf.maxDeliveries,
      unknownTaskRequeues: conf.workerUnknownTaskRequeues,
      acceptContent: conf.acceptContent.map(mimeType),
      resultExpiresMs: conf.resultExpires === null ? null : 1000 * conf.resultExpires,
      resultExtended: conf.resultExtended,
      controlExchange: conf.workerEnableRemoteControl ? conf.controlExchange : null,
      connectionRetry: conf.brokerConnectionRetry,
      connectionRetryOnStartup: conf.brokerConnectionRetryOnStartup ?? conf.brokerConnectionRetry,
      connectionMaxRetries: conf.brokerConnectionMaxRetries,
    }
  }
}

function openNativeWorker(app: Celery, options: NativeWorkerOptions): NativeWorker {
  const { backend, broker } = app
  return call('worker.open', () => native().NativeWorker.open(broker.native, nativeResults(backend), options))
}

function nativeResults(backend: Celery['backend']): NativeResults | null {
  if (backend.enabled && backend.native === null) {
    throw new CeleriacError('ERR_CELERIAC_NOT_SUPPORTED', 'a worker cannot store in this result backend yet')
  }
  return backend.native
}

function poolOf({ conf }: Celery, options: WorkerOptions): PoolDefinition {
  if (options.pool !== undefined) return poolNamed(options.pool)
  // Celery's own default is prefork, which nobody asked for who did not set it.
  return conf.isSet('workerPool') ? poolNamed(conf.workerPool) : asyncPool
}

function concurrencyOf({ conf }: Celery, options: WorkerOptions, pool: PoolDefinition): number {
  const set = conf.workerConcurrency
  const wanted = options.concurrency ?? (typeof set === 'number' && set > 0 ? set : pool.defaultConcurrency)
  if (!Number.isInteger(wanted) || wanted < 1) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      `concurrency must be a whole number from 1, not ${wanted}`,
    )
  }
  return pool.maxConcurrency === null ? wanted : Math.min(wanted, pool.maxConcurrency)
}

function queuesOf({ router }: Celery, options: WorkerOptions): NativeQueue[] {
  const { queues, excludeQueues = [] } = options
  const chosen =
    queues === undefined || queues.length === 0
      ? router.consumedQueues()
      : queues.map((name) => router.queue(name))
  const kept = chosen.filter(({ name }) => !excludeQueues.includes(name))
  const unique = [...new Map(kept.map((queue) => [queue.name, queue])).values()]
  if (unique.length > 0) return unique
  throw new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', 'a worker needs a queue: all of them are excluded')
}

const MIME_TYPES: Readonly<Record<string, string>> = {
  json: 'application/json',
  pickle: 'application/x-python-serialize',
  yaml: 'application/x-yaml',
  msgpack: 'application/x-msgpack',
  auth: 'application/data',
}

/** The MIME type of a serializer's name, as kombu has it; other names are MIME types already. */
function mimeType(name: string): string {
  return Object.hasOwn(MIME_TYPES, name) ? (MIME_TYPES[name] as string) : name
}

function isClosed(error: unknown): boolean {
  return error instanceof CeleriacError && error.code === 'ERR_CELERIAC_CLOSED'
}

/** Waits for `work`, no longer than that. */
async function withinDeadline(work: Promise<unknown>, milliseconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const deadline = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, milliseconds)
  })
  try {
    await Promise.race([work, deadline])
  } finally {
    clearTimeout(timer)
  }
}
