import {
  bool,
  callable,
  checked,
  dict,
  either,
  int,
  Mismatch,
  name,
  nullable,
  number,
  seconds,
  setting,
  string,
} from '../parse.ts'
import type { Parser, Table } from '../parse.ts'
import { tableNames, tlsOptions, transportOptions } from '../parse-structures.ts'
import type { TableNames, TlsOptions, TransportOptions } from '../types.ts'

/** Settings of results, and of the Redis and the database backend. */
export interface ResultSettings {
  /** Where results are kept; CELERY_RESULT_BACKEND in the environment wins. Null keeps none. */
  resultBackend: string | null
  /** How many results a client remembers; -1 and null are none. */
  resultCacheMax: number | null
  /** How stored results are compressed. */
  resultCompression: string | null
  /** The exchange of results in the AMQP backend of old. */
  resultExchange: string
  /** The type of that exchange. */
  resultExchangeType: string
  /** Seconds after which a result is deleted; 0 and null keep it. */
  resultExpires: number | null
  /** The same for what a chord keeps while it waits; null takes `resultExpires`. */
  resultChordExpires: number | null
  /** The same for failures, on Redis; null takes `resultExpires`. */
  resultFailureExpires: number | null
  /** Whether results in the rpc backend survive a restart of the broker. */
  resultPersistent: boolean | null
  /** Whether name, arguments, worker, retries and queue of the task are stored too. */
  resultExtended: boolean
  /** The serializer of results. */
  resultSerializer: string
  /** Options of the result backend, such as `globalKeyprefix`. */
  resultBackendTransportOptions: TransportOptions
  /** Seconds between two looks at a chord, where the backend cannot count. */
  resultChordRetryInterval: number
  /** Seconds in which the results of a chord must have been read. */
  resultChordJoinTimeout: number
  /** The longest wait between two attempts to reach the backend, in milliseconds. */
  resultBackendMaxSleepBetweenRetriesMs: number
  /** How often the backend is tried again; Infinity is without end. */
  resultBackendMaxRetries: number
  /** The first wait between two attempts, in milliseconds. */
  resultBackendBaseSleepBetweenRetriesMs: number
  /** Whether the backend is tried again at all. */
  resultBackendAlwaysRetry: boolean
  /** Whether threads share one client of the backend. */
  resultBackendThreadSafe: boolean

  /** TLS of the Redis backend. */
  redisBackendUseSsl: TlsOptions | boolean | null
  /** The database, where the URL has none. */
  redisDb: number | null
  /** The host, where no URL is given. */
  redisHost: string | null
  /** The most connections to the Redis backend. */
  redisMaxConnections: number | null
  /** The user, where the URL has none. */
  redisUsername: string | null
  /** The password, where the URL has none. */
  redisPassword: string | null
  /** The port, where the URL has none. */
  redisPort: number | null
  /** Seconds that an answer of Redis may take. */
  redisSocketTimeout: number | null
  /** Seconds that connecting to Redis may take. */
  redisSocketConnectTimeout: number | null
  /** Whether a command that timed out is sent again. */
  redisRetryOnTimeout: boolean
  /** TCP keep-alive. */
  redisSocketKeepalive: boolean
  /** Seconds between two health checks of a connection. */
  redisBackendHealthCheckInterval: number | null
  /** Gives user and password anew for each connection. */
  redisBackendCredentialProvider: string | object | null
  /** The name that connections have in CLIENT LIST. */
  redisClientName: string | null

  /** The URL of the database backend, where `resultBackend` has none. */
  databaseUrl: string | null
  /** Options of the database engine. */
  databaseEngineOptions: Record<string, unknown>
  /** Called with the engine. */
  databaseEngineCallback: string | ((engine: unknown) => void) | null
  /** Whether each access has a session of its own. */
  databaseShortLivedSessions: boolean
  /** The schemas of the tables. */
  databaseTableSchemas: TableNames | null
  /** The names of the tables. */
  databaseTableNames: TableNames | null
  /** Whether the tables are made when the backend is opened, rather than when first used. */
  databaseCreateTablesAtSetup: boolean
}

const engineCallback: Parser<(engine: unknown) => void> = callable('a function')
const credentialProvider: Parser<string | object> = checked(
  'any',
  'an object, a function, or where to find one',
  (value) => {
    if ((typeof value === 'object' && value !== null) || typeof value === 'function') return value
    if (typeof value === 'string') return value
    throw new Mismatch(credentialProvider.expected, value)
  },
)

export const resultSettings: Table<ResultSettings> = {
  resultBackend: setting(nullable(string), null),
  resultCacheMax: setting(nullable(int(-1)), -1),
  resultCompression: setting(nullable(string), null),
  resultExchange: setting(string, 'celeryresults'),
  resultExchangeType: setting(string, 'direct'),
  resultExpires: setting(nullable(seconds), 86_400),
  resultChordExpires: setting(nullable(seconds), null),
  resultFailureExpires: setting(nullable(seconds), null),
  resultPersistent: setting(nullable(bool), null),
  resultExtended: setting(bool, false),
  resultSerializer: setting(name, 'json'),
  resultBackendTransportOptions: setting(transportOptions, {}),
  resultChordRetryInterval: setting(seconds, 1),
  resultChordJoinTimeout: setting(seconds, 3),
  resultBackendMaxSleepBetweenRetriesMs: setting(int(), 10_000),
  resultBackendMaxRetries: setting(number(), Infinity),
  resultBackendBaseSleepBetweenRetriesMs: setting(int(), 10),
  resultBackendAlwaysRetry: setting(bool, false),
  resultBackendThreadSafe: setting(bool, false),

  redisBackendUseSsl: setting(nullable(either(bool, tlsOptions)), null),
  redisDb: setting(nullable(int()), null),
  redisHost: setting(nullable(string), null),
  redisMaxConnections: setting(nullable(int(1)), null),
  redisUsername: setting(nullable(string), null),
  redisPassword: setting(nullable(string), null),
  redisPort: setting(nullable(int()), null),
  redisSocketTimeout: setting(nullable(seconds), 120),
  redisSocketConnectTimeout: setting(nullable(seconds), null),
  redisRetryOnTimeout: setting(bool, false),
  redisSocketKeepalive: setting(bool, false),
  redisBackendHealthCheckInterval: setting(nullable(seconds), null),
  redisBackendCredentialProvider: setting(nullable(credentialProvider), null),
  redisClientName: setting(nullable(string), null),

  databaseUrl: setting(nullable(string), null),
  databaseEngineOptions: setting(dict, { pool_pre_ping: true, pool_recycle: 3600 }),
  databaseEngineCallback: setting(nullable(either(string, engineCallback, 'any')), null),
  databaseShortLivedSessions: setting(bool, false),
  databaseTableSchemas: setting(nullable(tableNames), null),
  databaseTableNames: setting(nullable(tableNames), null),
  databaseCreateTablesAtSetup: setting(bool, true),
}
