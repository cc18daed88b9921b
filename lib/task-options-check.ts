import { closest } from 'fastest-levenshtein'

import { CeleriacError } from './errors.ts'
import type { TaskOptions } from './task-options.ts'

type Kind = 'string' | 'boolean' | 'number' | 'function' | 'any'

/** Every option of a task with the type of its value; null and undefined leave an option to its default. */
const OPTIONS: Readonly<Record<keyof TaskOptions, Kind>> = {
  name: 'string',
  bind: 'boolean',
  params: 'any',
  typing: 'boolean',
  maxRetries: 'number',
  defaultRetryDelay: 'number',
  rateLimit: 'any',
  ignoreResult: 'boolean',
  trail: 'boolean',
  sendEvents: 'boolean',
  storeErrorsEvenIfIgnored: 'boolean',
  storeEagerResult: 'boolean',
  serializer: 'string',
  compression: 'string',
  timeLimit: 'number',
  softTimeLimit: 'number',
  trackStarted: 'boolean',
  acksLate: 'boolean',
  acksOnFailure: 'boolean',
  acksOnTimeout: 'boolean',
  acksOnFailureOrTimeout: 'boolean',
  rejectOnWorkerLost: 'boolean',
  retryOnWorkerLost: 'boolean',
  throws: 'any',
  expires: 'any',
  priority: 'number',
  queue: 'string',
  exchange: 'string',
  exchangeType: 'string',
  routingKey: 'string',
  deliveryMode: 'any',
  resultreprMaxsize: 'number',
  shadowName: 'function',
  autoretryFor: 'any',
  dontAutoretryFor: 'any',
  retryKwargs: 'any',
  retryBackoff: 'any',
  retryBackoffMax: 'number',
  retryJitter: 'boolean',
  beforeStart: 'function',
  onSuccess: 'function',
  onFailure: 'function',
  onRetry: 'function',
  afterReturn: 'function',
}

/** Options that take an error class or several. */
const ERROR_CLASSES = ['throws', 'autoretryFor', 'dontAutoretryFor'] as const

/** The options as they are; ERR_CELERIAC_INVALID_ARGUMENT for an unknown name, with the nearest, or a wrong type. */
export function checkTaskOptions(options: TaskOptions): TaskOptions {
  const of = options.name === undefined ? 'a task' : `task ${options.name}`
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(OPTIONS, name)) {
      const nearest = closest(name, Object.keys(OPTIONS))
      throw invalid(`${of} has the option '${name}', which there is not; the nearest is '${nearest}'`)
    }
    const kind = OPTIONS[name as keyof TaskOptions]
    if (value === undefined || value === null || kind === 'any') continue
    if (typeof value !== kind || Number.isNaN(value))
      throw invalid(`${of}: ${name} must be a ${kind}, not ${typeof value}`)
  }
  if (options.params !== undefined && !Array.isArray(options.params)) {
    throw invalid(`${of}: params must be an array of names`)
  }
  for (const name of ERROR_CLASSES) {
    const classes = options[name]
    if (classes === undefined) continue
    for (const one of Array.isArray(classes) ? (classes as unknown[]) : [classes]) {
      if (typeof one !== 'function')
        throw invalid(`${of}: ${name} must hold error classes, not ${typeof one}`)
    }
  }
  return options
}

function invalid(message: string): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', message)
}
