/** The codes that the Rust core can give; a test holds this list against the core's own. */
const CORE_CODES = [
  'ERR_CELERIAC_AUTHENTICATION_FAILED',
  'ERR_CELERIAC_BROKER_UNAVAILABLE',
  'ERR_CELERIAC_CLOSED',
  'ERR_CELERIAC_CONTENT_DISALLOWED',
  'ERR_CELERIAC_DECODE',
  'ERR_CELERIAC_ENCODE',
  'ERR_CELERIAC_INTERNAL',
  'ERR_CELERIAC_INVALID_ARGUMENT',
  'ERR_CELERIAC_INVALID_TASK',
  'ERR_CELERIAC_INVALID_URL',
  'ERR_CELERIAC_NOT_SUPPORTED',
  'ERR_CELERIAC_PUBLISH_TIMEOUT',
  'ERR_CELERIAC_REFUSED',
  'ERR_CELERIAC_RESULT_STORE_UNAVAILABLE',
  'ERR_CELERIAC_UNKNOWN_SCHEME',
  'ERR_CELERIAC_UNROUTABLE',
] as const

/** The codes of errors that arise in TypeScript. */
const LIBRARY_CODES = [
  'ERR_CELERIAC_APP_NOT_FOUND',
  'ERR_CELERIAC_DUPLICATE_TASK',
  'ERR_CELERIAC_INVALID_SETTING',
  'ERR_CELERIAC_MAX_RETRIES_EXCEEDED',
  'ERR_CELERIAC_MODULE_NOT_FOUND',
  'ERR_CELERIAC_NATIVE_MISSING',
  'ERR_CELERIAC_NO_BROKER',
  'ERR_CELERIAC_NO_RESULT_BACKEND',
  'ERR_CELERIAC_NOT_REGISTERED',
  'ERR_CELERIAC_QUEUE_NOT_FOUND',
  'ERR_CELERIAC_SOFT_TIME_LIMIT',
  'ERR_CELERIAC_TASK_FAILED',
  'ERR_CELERIAC_TASK_REVOKED',
  'ERR_CELERIAC_TIMEOUT',
  'ERR_CELERIAC_UNKNOWN_SETTING',
] as const

/** The codes of the Rust core, sorted. */
export const coreErrorCodes: readonly string[] = CORE_CODES

/** Every error that celeriac throws has one of these as its `code`. They are public and never change. */
export type CeleriacErrorCode = (typeof CORE_CODES)[number] | (typeof LIBRARY_CODES)[number]

const ALL_CODES: ReadonlySet<unknown> = new Set([...CORE_CODES, ...LIBRARY_CODES])

/** Whether `code` is one of celeriac's. */
export function isCeleriacErrorCode(code: unknown): code is CeleriacErrorCode {
  return ALL_CODES.has(code)
}

/** What celeriac throws; tell its errors apart by `code`. */
export class CeleriacError extends Error {
  override readonly name: string = 'CeleriacError'
  /** One of {@link CeleriacErrorCode}; says what happened and so what to do. */
  readonly code: CeleriacErrorCode

  constructor(code: CeleriacErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
