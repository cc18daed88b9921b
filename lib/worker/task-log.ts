import { safeText } from '../errors.ts'
import { getLogger } from '../log/logger.ts'
import { printable } from '../log/printable.ts'
import { native } from '../native.ts'
import type { Request } from '../request.ts'
import { exceptionRepr } from './exception-repr.ts'

/** The loggers that Celery writes these lines with. */
const trace = getLogger('celery.app.trace')
const requests = getLogger('celery.worker.request')

/** Python's `repr` of JSON text, cut to a length. */
export type Repr = (json: string, maxLength: number) => string

/** {@link Repr} by the core. */
export const nativeRepr: Repr = (json, maxLength) => native().pythonRepr(json, false, maxLength)

/** Writes the lines about a task's end, in the words that tools for Celery's logs look for. Nothing here throws. */
export class TaskLog {
  readonly #repr: Repr

  constructor(repr: Repr = nativeRepr) {
    this.#repr = repr
  }

  /** Whether {@link succeeded} writes anything. */
  get tellsSuccess(): boolean {
    return trace.isEnabledFor('INFO')
  }

  succeeded(request: Request, milliseconds: number, result: string, maxLength: number): void {
    if (!this.tellsSuccess) return
    const seconds = Math.round(milliseconds * 1000) / 1e6
    attempt(() =>
      trace.info(
        `${subject(request)} succeeded in ${seconds}s: ${this.#repr(result, maxLength)}`,
        of(request),
      ),
    )
  }

  /** An expected error (`throws`) is one line; any other comes with its stack. */
  failed(request: Request, error: unknown, expected: boolean): void {
    attempt(() => {
      if (expected) trace.info(`${subject(request)} raised expected: ${exceptionRepr(error)}`, of(request))
      else
        trace.exception(`${subject(request)} raised unexpected: ${exceptionRepr(error)}`, error, of(request))
    })
  }

  retried(request: Request, reason: string): void {
    attempt(() => trace.info(`${subject(request)} retry: ${reason}`, of(request)))
  }

  ignored(request: Request): void {
    attempt(() => trace.info(`${subject(request)} ignored`, of(request)))
  }

  rejected(request: Request, error: Error): void {
    attempt(() => trace.warning(`${subject(request)} ${error.message}`, { ...of(request), error }))
  }

  revoked(request: Request): void {
    attempt(() => requests.info(`${subject(request)} was terminated by a revoke`, of(request)))
  }

  softTimeLimit(request: Request, seconds: number): void {
    attempt(() =>
      requests.warning(
        `Soft time limit (${seconds}s) exceeded for ${named(request.task)}[${named(request.id)}]`,
        of(request),
      ),
    )
  }

  handlerRaised(request: Request, handler: string, error: unknown): void {
    attempt(() =>
      trace.exception(
        `${subject(request)} ${handler} handler raised: ${exceptionRepr(error)}`,
        error,
        of(request),
      ),
    )
  }

  errbackRaised(request: Request, errback: string, error: unknown): void {
    attempt(() => trace.exception(`Errback '${errback}' raised an exception`, error, of(request)))
  }

  /** Its arguments hold a typed value that there is no such value of. */
  unreadable(id: string, name: string, error: unknown): void {
    attempt(() =>
      requests.error(`Task ${named(name)}[${named(id)}] cannot be read: ${exceptionRepr(error)}`, {
        taskId: id,
        taskName: name,
      }),
    )
  }

  internalError(id: string, name: string, error: unknown): void {
    attempt(() =>
      trace.log('CRITICAL', `Task ${named(name)}[${named(id)}] INTERNAL ERROR: ${exceptionRepr(error)}`, {
        taskId: id,
        taskName: name,
        error,
      }),
    )
  }
}

/** A line that cannot be written is no reason to treat its task otherwise. */
function attempt(write: () => void): void {
  try {
    write()
  } catch (error) {
    try {
      trace.error(`a line about a task could not be written: ${safeText(error)}`)
    } catch {
      // Nothing can be logged at all.
    }
  }
}

function subject(request: Request): string {
  return `Task ${named(request.shadow || request.task)}[${named(request.id)}]`
}

/** The most characters of a name or an id in a line. */
const LONGEST_NAME = 200

/** Names and ids come from whoever sent the message: they must not end the line, nor move a terminal's cursor. */
function named(text: string): string {
  return printable(text.length > LONGEST_NAME ? `${text.slice(0, LONGEST_NAME)}…` : text)
}

function of(request: Request): { taskId: string; taskName: string } {
  return { taskId: request.id, taskName: request.task }
}
