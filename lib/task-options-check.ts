import { inspect } from 'node:util'

import { closest } from 'fastest-levenshtein'

import { taskOptionsNotHonoured } from './config/not-honoured.ts'
import { CeleriacError } from './errors.ts'
import type { AnyTaskOptions } from './task-options.ts'

type Kind = 'string' | 'boolean' | 'count' | 'seconds' | 'function' | 'any'

/** Every option of a task with the type of its value; null and undefined leave an option to its default. */
const OPTIONS: Readonly<Record<keyof AnyTaskOptions, Kind>> = {
  name: 'string',
  bind: 'boolean',
  params: 'any',
  typing: 'boolean',
  maxRetries: 'count',
  defaultRetryDelay: 'seconds',
  rateLimit: 'any',
  ignoreResult: 'boolean',
  trail: 'boolean',
  sendEvents: 'boolean',
  storeErrorsEvenIfIgnored: 'boolean',
  storeEagerResult: 'boolean',
  serializer: 'string',
  compression: 'string',
  timeLimit: 'seconds',
  softTimeLimit: 'seconds',
  trackStarted: 'boolean',
  acksLate: 'boolean',
  acksOnFailure: 'boolean',
  acksOnTimeout: 'boolean',
  acksOnFailureOrTimeout: 'boolean',
  rejectOnWorkerLost: 'boolean',
  retryOnWorkerLost: 'boolean',
  throws: 'any',
  expires: 'any',
  priority: 'count',
  queue: 'string',
  exchange: 'string',
  exchangeType: 'string',
  routingKey: 'string',
  deliveryMode: 'any',
  resultreprMaxsize: 'count',
  shadowName: 'function',
  autoretryFor: 'any',
  dontAutoretryFor: 'any',
  retryKwargs: 'any',
  retryBackoff: 'any',
  retryBackoffMax: 'seconds',
  retryJitter: 'boolean',
  beforeStart: 'function',
  onSuccess: 'function',
  onFailure: 'function',
  onRetry: 'function',
  afterReturn: 'function',
}

/** What a value of each kind is, for those of which a type says too little. */
const EXPECTED: Readonly<Record<Kind, string>> = {
  string: 'a string',
  boolean: 'true or false',
  count: 'a whole number from 0 on',
  seconds: 'a number of seconds from 0 on',
  function: 'a function',
  any: 'anything',
}

/** What else an option's value must be: null when it is right, else what was expected. */
const CHECKS: { readonly [Name in keyof AnyTaskOptions]?: (value: unknown) => string | null } = {
  params: (value) => (Array.isArray(value) ? null : 'an array of names'),
  maxRetries: (value) => (isA('count', value) ? null : `${EXPECTED.count}, or null for no limit`),
  priority: (value) => (Number(value) <= 255 ? null : 'an integer from 0 to 255'),
  rateLimit: (value) =>
    isA('seconds', value) || (typeof value === 'string' && /^\d+(\.\d+)?(\/[smh])?$/.test(value))
      ? null
      : "calls per second, or such as '10/s', '10/m' or '10/h'",
  retryBackoff: (value) =>
    typeof value === 'boolean' || isA('seconds', value) ? null : 'true, false or a number from 0 on',
  retryKwargs: (value) => (typeof value === 'object' && !Array.isArray(value) ? null : 'an object'),
  expires: (value) =>
    typeof value === 'string' ||
    value instanceof Date ||
    (typeof value === 'number' && Number.isFinite(value))
      ? null
      : 'a number of seconds, a Date or a time as text',
  deliveryMode: (value) =>
    [1, 2, 'transient', 'persistent'].includes(value as never) ? null : "1 ('transient') or 2 ('persistent')",
  throws: errorClasses,
  autoretryFor: errorClasses,
  dontAutoretryFor: errorClasses,
}

function errorClasses(value: unknown): string | null {
  const all: unknown[] = Array.isArray(value) ? value : [value]
  return all.every((one) => typeof one === 'function') ? null : 'an error class, or an array of them'
}

function isA(kind: Kind, value: unknown): boolean {
  if (kind === 'any') return true
  if (kind === 'count') return typeof value === 'number' && Number.isInteger(value) && value >= 0
  if (kind === 'seconds') return typeof value === 'number' && Number.isFinite(value) && value >= 0
  return typeof value === kind
}

/**
 * The options, without those that are null and so left to their defaults (`maxRetries` is not: null is without limit).
 * ERR_CELERIAC_INVALID_ARGUMENT for an unknown name, with the nearest, and for a wrong value. One that changes nothing
 * yet gives a warning.
 */
export function checkTaskOptions<Options extends AnyTaskOptions>(options: Options): Options {
  const of = typeof options.name === 'string' ? `task ${options.name}` : 'a task'
  for (const [name, value] of Object.entries(options) as Array<[keyof AnyTaskOptions, unknown]>) {
    if (!Object.hasOwn(OPTIONS, name)) {
      const nearest = closest(name, Object.keys(OPTIONS))
      throw invalid(`${of} has the option '${name}', which there is not; the nearest is '${nearest}'`)
    }
    if (value === undefined || value === null) continue
    const kind = OPTIONS[name]
    const expected = CHECKS[name]?.(value) ?? (isA(kind, value) ? null : EXPECTED[kind])
    if (expected !== null) throw invalid(`${of}: ${name} must be ${expected}, not ${show(value)}`)
    warnUnlessHonoured(name, value)
  }
  return withoutNulls(options)
}

function withoutNulls<Options extends AnyTaskOptions>(options: Options): Options {
  const isLeft = ([name, value]: [string, unknown]): boolean => value !== null || name === 'maxRetries'
  const entries = Object.entries(options)
  return entries.every(isLeft) ? options : (Object.fromEntries(entries.filter(isLeft)) as Options)
}

const warned = new Set<string>()

function warnUnlessHonoured(name: keyof AnyTaskOptions, value: unknown): void {
  const { reason, unless } = taskOptionsNotHonoured[name] ?? {}
  if (reason === undefined || value === unless || warned.has(name)) return
  warned.add(name)
  process.emitWarning(`the task option ${name} is accepted but changes nothing yet: ${reason}`, {
    type: 'CeleriacWarning',
    code: 'CELERIAC_NOT_HONOURED',
  })
}

function show(value: unknown): string {
  return typeof value === 'function' ? 'a function' : inspect(value, { depth: 0, maxStringLength: 100 })
}

function invalid(message: string): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', message)
}
