import type { CeleriacErrorCode } from '../errors.ts'

/** Exit codes of the command line, those of Celery's. */
export const exitCodes = {
  ok: 0,
  failure: 1,
  usage: 2,
  /** EX_UNAVAILABLE */
  unavailable: 69,
  /** EX_SOFTWARE */
  software: 70,
  /** EX_CANTCREAT */
  cannotCreate: 73,
} as const

const BY_ERROR: Readonly<Partial<Record<CeleriacErrorCode, number>>> = {
  ERR_CELERIAC_APP_NOT_FOUND: exitCodes.usage,
  ERR_CELERIAC_INVALID_ARGUMENT: exitCodes.usage,
  ERR_CELERIAC_INVALID_SETTING: exitCodes.usage,
  ERR_CELERIAC_INVALID_URL: exitCodes.usage,
  ERR_CELERIAC_MODULE_NOT_FOUND: exitCodes.usage,
  ERR_CELERIAC_NO_BROKER: exitCodes.usage,
  ERR_CELERIAC_UNKNOWN_SCHEME: exitCodes.usage,
  ERR_CELERIAC_UNKNOWN_SETTING: exitCodes.usage,
  ERR_CELERIAC_AUTHENTICATION_FAILED: exitCodes.unavailable,
  ERR_CELERIAC_BROKER_UNAVAILABLE: exitCodes.unavailable,
  ERR_CELERIAC_PUBLISH_TIMEOUT: exitCodes.unavailable,
  ERR_CELERIAC_RESULT_STORE_UNAVAILABLE: exitCodes.unavailable,
  ERR_CELERIAC_INTERNAL: exitCodes.software,
}

/** The exit code of a command that ended with this error. */
export function exitCodeOf(code: CeleriacErrorCode): number {
  return BY_ERROR[code] ?? exitCodes.failure
}
