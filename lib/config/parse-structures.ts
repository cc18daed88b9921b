import { withCamelCaseKeys, withSnakeCaseKeys } from './names.ts'
import {
  bool,
  checked,
  dict,
  int,
  isDictionary,
  Mismatch,
  nullable,
  number,
  seconds,
  string,
} from './parse.ts'
import type { Parser } from './parse.ts'
import type {
  BeatEntry,
  DeliveryMode,
  ExchangeType,
  RetryPolicy,
  TableNames,
  TaskAnnotations,
  TaskQueues,
  TaskRoutes,
  TlsOptions,
  TransportOptions,
} from './types.ts'

/** Runs `work` and puts `path` before the path of a mismatch in it. */
function within<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw error instanceof Mismatch ? error.within(path) : error
  }
}

/** Checks the fields that are known; others are refused unless `open`. Keys come out in camelCase. */
function fields(value: unknown, expected: string, known: Record<string, Parser<unknown>>, open = false) {
  if (!isDictionary(value)) throw new Mismatch(expected, value)
  const result = withCamelCaseKeys(value)
  for (const [key, each] of Object.entries(result)) {
    const parser = Object.hasOwn(known, key) ? known[key] : undefined
    if (each === undefined) delete result[key]
    else if (parser !== undefined) result[key] = within(`.${key}`, () => parser.parse(each))
    else if (!open) throw new Mismatch(`one of ${Object.keys(known).join(', ')} as a key`, key)
  }
  return result
}

const EXCHANGE_TYPES = ['direct', 'topic', 'fanout', 'headers']

/** The type of an exchange; other names are those of a broker's plug-in. */
export const exchangeType: Parser<ExchangeType> = checked(
  'string',
  'one of "direct", "topic", "fanout", "headers"',
  (value) => {
    if (EXCHANGE_TYPES.includes(value as string)) return value as ExchangeType
    throw new Mismatch(exchangeType.expected, value)
  },
)

const DELIVERY_MODES: readonly unknown[] = [1, 2, 'transient', 'persistent']

/** 1 or `transient`, 2 or `persistent`. */
export const deliveryMode: Parser<DeliveryMode> = checked(
  'string',
  '1, 2, "transient" or "persistent"',
  (value) => {
    if (DELIVERY_MODES.includes(value)) return value as DeliveryMode
    throw new Mismatch(deliveryMode.expected, value)
  },
)

const EXCHANGE: Record<string, Parser<unknown>> = {
  name: string,
  type: exchangeType,
  durable: bool,
  autoDelete: bool,
  deliveryMode,
}

const exchange = checked('any', 'the name of an exchange, or an object with its name', (value) => {
  if (typeof value === 'string') return value
  const result = fields(value, exchange.expected, EXCHANGE)
  if (result['name'] === undefined) throw new Mismatch('a name', undefined, '.name')
  return result
}) as Parser<unknown>

const QUEUE: Record<string, Parser<unknown>> = {
  name: string,
  exchange,
  exchangeType,
  routingKey: string,
  bindingKey: string,
  durable: bool,
  exclusive: bool,
  autoDelete: bool,
  queueArguments: dict,
  bindingArguments: dict,
  alias: string,
  maxPriority: int(),
  messageTtl: seconds,
  expires: seconds,
  maxLength: int(),
}

/** Queues by name, or an array of queues with names. */
export const taskQueues: Parser<TaskQueues> = checked(
  'dict',
  'an object of queues by name, or an array of queues',
  (value) => {
    if (Array.isArray(value)) {
      return value.map((each: unknown, index) =>
        within(`[${index}]`, () => {
          const queue = fields(each, 'an object with the name of a queue', QUEUE)
          if (typeof queue['name'] !== 'string') throw new Mismatch('a name', queue['name'], '.name')
          return { ...queue, name: queue['name'] }
        }),
      )
    }
    if (!isDictionary(value)) throw new Mismatch(taskQueues.expected, value)
    return Object.fromEntries(
      Object.entries(value).map(([name, each]) => [
        name,
        within(`.${name}`, () => fields(each, 'an object with the options of a queue', QUEUE)),
      ]),
    )
  },
)

const ROUTE: Record<string, Parser<unknown>> = {
  queue: string,
  exchange: string,
  exchangeType,
  routingKey: string,
  priority: int(),
  serializer: string,
  compression: nullable(string),
  deliveryMode,
}

const ROUTE_EXPECTED = 'the name of a queue, or an object such as { queue: "emails" }'

function route(value: unknown): unknown {
  return typeof value === 'string' ? value : fields(value, ROUTE_EXPECTED, ROUTE, true)
}

function routePair([pattern, value]: readonly unknown[], path: string): [unknown, unknown] {
  if (typeof pattern !== 'string' && !(pattern instanceof RegExp)) {
    throw new Mismatch('the name of a task, a glob or a regular expression', pattern, path)
  }
  return [pattern, within(`${path}.${String(pattern)}`, () => route(value))]
}

function isRouterObject(value: unknown): boolean {
  return typeof (value as { routeForTask?: unknown } | null)?.routeForTask === 'function'
}

function router(value: unknown, path: string): unknown {
  if (typeof value === 'function' || isRouterObject(value)) return value
  if (value instanceof Map) return new Map([...value].map((pair) => routePair(pair, path)))
  if (!isDictionary(value)) throw new Mismatch('an object of routes by task name, or a function', value, path)
  return Object.fromEntries(Object.entries(value).map((pair) => routePair(pair, path)))
}

function routerOrPair(value: unknown, path: string): unknown {
  if (!Array.isArray(value)) return router(value, path)
  if (!Array.isArray(value[0])) return routePair(value, path)
  return value.map((pair: unknown, index) => {
    if (Array.isArray(pair)) return routePair(pair, `${path}[${index}]`)
    throw new Mismatch('a pair of a pattern and a route', pair, `${path}[${index}]`)
  })
}

/** A router, or several. */
export const taskRoutes: Parser<TaskRoutes> = checked(
  'any',
  'an object of routes by task name, a Map, a function, or an array of these',
  (value) => {
    if (Array.isArray(value)) {
      return value.map((each: unknown, index) => routerOrPair(each, `[${index}]`)) as TaskRoutes
    }
    if (
      typeof value !== 'function' &&
      !(value instanceof Map) &&
      !isDictionary(value) &&
      !isRouterObject(value)
    ) {
      throw new Mismatch(taskRoutes.expected, value)
    }
    return router(value, '') as TaskRoutes
  },
)

function annotation(value: unknown, path: string): unknown {
  if (typeof value === 'function') return value
  if (!isDictionary(value))
    throw new Mismatch('an object of attributes by task name, or a function', value, path)
  return Object.fromEntries(
    Object.entries(value).map(([task, attributes]) => {
      if (!isDictionary(attributes))
        throw new Mismatch('an object of attributes', attributes, `${path}.${task}`)
      return [task, withCamelCaseKeys(attributes)]
    }),
  )
}

/** Attributes by task name, a function, or several of these. */
export const taskAnnotations: Parser<TaskAnnotations> = checked(
  'any',
  'an object of attributes by task name, a function, or an array of these',
  (value) => {
    if (Array.isArray(value)) {
      return value.map((each: unknown, index) => annotation(each, `[${index}]`)) as TaskAnnotations
    }
    if (typeof value !== 'function' && !isDictionary(value))
      throw new Mismatch(taskAnnotations.expected, value)
    return annotation(value, '') as TaskAnnotations
  },
)

const RETRY_POLICY: Record<string, Parser<unknown>> = {
  maxRetries: nullable(int()),
  intervalStart: seconds,
  intervalStep: seconds,
  intervalMax: seconds,
}

/** A retry policy; `retry_errors` is refused, since the errors that are retried are the broker's. */
export const retryPolicy: Parser<RetryPolicy> = checked(
  'dict',
  'an object with maxRetries, intervalStart, intervalStep and intervalMax',
  (value) => fields(value, retryPolicy.expected, RETRY_POLICY),
)

const TRANSPORT_OPTIONS: Record<string, Parser<unknown>> = {
  visibilityTimeout: number(),
  globalKeyprefix: string,
  prioritySteps: checked('list', 'an array of whole numbers', (value) => {
    if (Array.isArray(value) && value.every((each) => Number.isSafeInteger(each) && each >= 0))
      return [...value]
    throw new Mismatch('an array of whole numbers', value)
  }),
  sep: string,
  fanoutPatterns: bool,
  queueOrderStrategy: string,
  socketTimeout: nullable(seconds),
  socketConnectTimeout: nullable(seconds),
  socketKeepalive: nullable(bool),
  healthCheckInterval: nullable(seconds),
  masterName: string,
  maxConnections: nullable(int()),
  pollingInterval: nullable(seconds),
  confirmPublish: bool,
}

/** Options of a transport. Keys come out in snake_case, as the core and Celery's documentation know them. */
export const transportOptions: Parser<TransportOptions> = checked('dict', 'an object', (value) =>
  withSnakeCaseKeys(fields(value, 'an object', TRANSPORT_OPTIONS, true)),
)

/** TLS parameters. Keys come out in snake_case. */
export const tlsOptions: Parser<TlsOptions> = checked('dict', 'an object with TLS options', (value) => {
  if (!isDictionary(value)) throw new Mismatch(tlsOptions.expected, value)
  return withSnakeCaseKeys(value)
})

const BEAT_ENTRY: Record<string, Parser<unknown>> = {
  task: string,
  args: checked('list', 'an array', (value) => {
    if (Array.isArray(value)) return [...(value as unknown[])]
    throw new Mismatch('an array', value)
  }),
  kwargs: dict,
  options: dict,
  relative: bool,
}

/** Periodic tasks by name of entry. */
export const beatSchedule: Parser<Record<string, BeatEntry>> = checked(
  'dict',
  'an object of entries by name, each with a task and a schedule',
  (value) => {
    if (!isDictionary(value)) throw new Mismatch(beatSchedule.expected, value)
    return Object.fromEntries(
      Object.entries(value).map(([name, each]) => [
        name,
        within(`.${name}`, () => {
          const entry = fields(each, 'an object with a task and a schedule', BEAT_ENTRY, true)
          if (typeof entry['task'] !== 'string')
            throw new Mismatch('the name of a task', entry['task'], '.task')
          if (entry['schedule'] === undefined) throw new Mismatch('a schedule', undefined, '.schedule')
          return { ...entry, task: entry['task'], schedule: entry['schedule'] }
        }),
      ]),
    )
  },
)

const TABLE_NAMES: Record<string, Parser<unknown>> = { task: string, group: string }

/** The names of the tables or schemas of tasks and groups. */
export const tableNames: Parser<TableNames> = checked('dict', 'an object with task and group', (value) =>
  fields(value, tableNames.expected, TABLE_NAMES),
)
