import { currentWorkerTask } from '../current-task.ts'
import { safeText } from '../errors.ts'
import { flushLog, getLogger } from '../log/logger.ts'
import type { TaskContext } from '../task-context.ts'
import { Deferred } from './deferred.ts'
import { exceptionRepr } from './exception-repr.ts'

/** What is done to a worker when it cannot go on. */
export interface Crashable {
  /** What runs, as `name[id]`. */
  readonly running: readonly string[]
  failTask(taskId: string, error: unknown): void
  terminate(): Promise<void>
}

const log = getLogger('celery.worker')

/** How many tasks one line names at most. */
const NAMED = 20

/**
 * Takes the errors that nobody handles, which would end the process at once and with it whatever else it runs.
 *
 * A rejection is logged with the task that it comes from, and the worker goes on. An exception leaves the process in a
 * state that nobody knows, so the worker ends: the outcomes of finished tasks are stored, the task that it comes from
 * has failed, with its message in the dead list (or it would do the same to the next worker), and the rest goes back to
 * its queue. Where somebody ends the process while tasks run, with `process.exit()`, a line names them.
 */
export class StrayErrors {
  readonly #worker: Crashable
  readonly #crashed = new Deferred<void>()
  #isCrashing = false

  constructor(worker: Crashable) {
    this.#worker = worker
  }

  /** Whether an exception has ended the worker, or is about to. */
  get isCrashing(): boolean {
    return this.#isCrashing
  }

  /** Resolves when an exception has ended the worker. */
  get crashed(): Promise<void> {
    return this.#crashed.promise
  }

  /** Takes what the process throws from now on. */
  listen(): void {
    process.on('unhandledRejection', this.#onRejection)
    process.on('uncaughtException', this.#onException)
    process.on('exit', this.#onExit)
  }

  /** Leaves it to Node again. */
  stopListening(): void {
    process.off('unhandledRejection', this.#onRejection)
    process.off('uncaughtException', this.#onException)
    process.off('exit', this.#onExit)
  }

  readonly #onRejection = (reason: unknown): void => {
    logStray('A rejected promise that nobody handles', reason, currentWorkerTask())
  }

  readonly #onException = (error: unknown): void => {
    const task = currentWorkerTask()
    logStray('An exception that nobody handles', error, task)
    if (this.#isCrashing) return
    this.#isCrashing = true
    void this.#crash(error, task)
  }

  readonly #onExit = (code: number): void => {
    const { running } = this.#worker
    if (running.length === 0) return
    const caller = currentWorkerTask()
    const who = caller === undefined ? '' : `, ended by task ${caller.name}[${caller.request.id}]`
    const names = running.slice(0, NAMED).join(', ')
    const more = running.length > NAMED ? ` and ${running.length - NAMED} more` : ''
    log.critical(`The process ends with exit code ${code}${who}, while these tasks run: ${names}${more}`)
    flushLog()
  }

  async #crash(error: unknown, task: TaskContext | undefined): Promise<void> {
    try {
      if (task !== undefined) this.#worker.failTask(task.request.id, error)
      await this.#worker.terminate()
    } catch (failure) {
      logStray('The worker could not be ended', failure, undefined)
    }
    this.#crashed.resolve()
  }
}

function logStray(what: string, error: unknown, task: TaskContext | undefined): void {
  try {
    const where = task === undefined ? '' : ` in task ${task.name}[${task.request.id}]`
    log.critical(`${what}${where}: ${describe(error)}`, { error })
    flushLog()
  } catch (failure) {
    // What is thrown here would come back to the listeners, or end the process.
    process.stderr.write(`celeriac: ${safeText(failure)}\n`)
  }
}

function describe(error: unknown): string {
  try {
    return exceptionRepr(error)
  } catch {
    return safeText(error)
  }
}
