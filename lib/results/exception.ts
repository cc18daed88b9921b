import {
  CeleriacError,
  readSafely,
  type RemoteException,
  safeText,
  TaskError,
  TaskPredicate,
  TaskRevokedError,
} from '../errors.ts'
import { canEncode } from '../serialization/encode.ts'

/** An exception as Celery's JSON results have it. */
export interface ExceptionDocument {
  exc_type: string
  exc_message: unknown[]
  exc_module: string
}

/** Python's module of what JavaScript and Python both have, or have alike. */
const BUILTINS = new Set(['TypeError', 'SyntaxError', 'Exception', 'ValueError', 'RuntimeError', 'KeyError'])
const BILLIARD = new Set(['SoftTimeLimitExceeded', 'TimeLimitExceeded', 'WorkerLostError', 'Terminated'])

/**
 * The form in which a thrown value is stored. An error class may say how Python is to see it with a static
 * `module` (and its `name`); an `args` array on the error stands for `[message]`.
 */
export function exceptionDocument(error: unknown): ExceptionDocument {
  if (error instanceof TaskError && error.constructor === TaskError) {
    return {
      exc_type: error.type,
      exc_message: encodable(error.args),
      exc_module: error.module ?? 'builtins',
    }
  }
  if (!(error instanceof Error))
    return { exc_type: 'Error', exc_message: encodable([error]), exc_module: 'javascript' }
  const type = typeName(error)
  const args = readSafely(error, 'args')
  return {
    exc_type: type,
    exc_message: Array.isArray(args) ? encodable(args) : [safeText(readSafely(error, 'message'))],
    exc_module: moduleOf(error, type),
  }
}

function typeName(error: Error): string {
  const name = readSafely(error, 'name')
  if (name !== undefined && name !== null && name !== '' && name !== 'Error') return safeText(name)
  const { constructor } = error as { constructor?: { name?: unknown } | null }
  return safeText(constructor?.name || 'Error')
}

function moduleOf(error: Error, type: string): string {
  const { module } = (error.constructor ?? {}) as { module?: unknown }
  if (typeof module === 'string') return module
  if (BILLIARD.has(type)) return 'billiard.exceptions'
  if (error instanceof CeleriacError || error instanceof TaskPredicate) return 'celery.exceptions'
  return BUILTINS.has(type) ? 'builtins' : 'javascript'
}

function encodable(args: readonly unknown[]): unknown[] {
  return args.map((arg) => (canEncode(arg) ? arg : safeText(arg)))
}

/** The error for what a FAILURE, RETRY or REVOKED stored: plain data in an error of ours, whatever it names. */
export function errorFromDocument(document: unknown, taskId: string, traceback: string | null): TaskError {
  const remote = remoteException(document, taskId, traceback)
  return remote.type === 'TaskRevokedError' ? new TaskRevokedError(remote) : new TaskError(remote)
}

function remoteException(document: unknown, taskId: string, traceback: string | null): RemoteException {
  if (typeof document !== 'object' || document === null) {
    return { type: 'Exception', module: null, args: document === null ? [] : [document], traceback, taskId }
  }
  const { exc_type: type, exc_message: message, exc_module: module } = document as Partial<ExceptionDocument>
  return {
    type: typeof type === 'string' ? type : 'Exception',
    module: typeof module === 'string' ? module : null,
    args: Array.isArray(message) ? message : message === undefined || message === null ? [] : [message],
    traceback,
    taskId,
  }
}
