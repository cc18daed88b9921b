import type { AnyTaskOptions } from '../task-options.ts'
import type { SettingName } from './settings.ts'

const BEAT = 'beat is not built yet'
const EVENTS = 'events are not built yet'
const PROCESSES = 'the pools of processes and threads are not built yet'
const REMOTE_CONTROL = 'remote control has no more than revoke and shutdown yet'
const SECURITY = 'signed messages are not built yet'
const STORES = 'its result backend is not built yet'
const CLASSES = 'it names a Python class'
const DAEMON = 'detaching from the terminal is not built yet'
const CHORDS = 'chords are not built yet'
const COMPRESSION = 'compression is not built yet'
const CORE = 'the native core opens the connections that it needs, and opens a lost one again, itself'
const HARD_LIMIT = 'it is sent along, but only a pool of processes can kill a task, and there is none yet'
const RATE_LIMITS = 'rate limits are not built yet'
const WORKER_LOST = 'a lost task is given out again, and counted by maxDeliveries'
const RPC_EXCHANGE = 'results of rpc:// go to the default exchange, whatever it says, as in Celery'
const UNREAD = 'Celery itself declares it and never reads it'

/**
 * The one list of settings that are accepted and checked but change nothing yet, each with the reason. Setting one of
 * them gives a warning. What is built takes its settings off this list.
 */
export const notHonoured: { readonly [K in SettingName]?: string } = {
  beatEnableRemoteControl: BEAT,
  beatRemoteControlMaxTickAge: BEAT,
  beatMaxLoopInterval: BEAT,
  beatSchedule: BEAT,
  beatScheduler: BEAT,
  beatScheduleFilename: BEAT,
  beatSyncEvery: BEAT,
  beatCronStartingDeadline: BEAT,
  beatLogfile: BEAT,
  beatPidfile: BEAT,
  beatUid: BEAT,
  beatGid: BEAT,
  beatUmask: BEAT,
  beatExecutable: BEAT,

  brokerChannelErrorRetry: 'a lost channel is always opened again',
  brokerHeartbeatCheckrate: 'the core beats twice in the interval that it agreed on',
  brokerPoolLimit: CORE,
  brokerPoolAcquireTimeout: CORE,

  controlQueueTtl: REMOTE_CONTROL,
  controlQueueExpires: REMOTE_CONTROL,
  controlQueueExclusive: REMOTE_CONTROL,
  controlQueueDurable: REMOTE_CONTROL,

  eventQueueExpires: EVENTS,
  eventQueueTtl: EVENTS,
  eventQueuePrefix: EVENTS,
  eventQueueExclusive: EVENTS,
  eventQueueDurable: EVENTS,
  eventSerializer: EVENTS,
  eventExchange: EVENTS,
  eventsLogfile: EVENTS,
  eventsPidfile: EVENTS,
  eventsUid: EVENTS,
  eventsGid: EVENTS,
  eventsUmask: EVENTS,
  eventsExecutable: EVENTS,
  taskSendSentEvent: EVENTS,
  workerSendTaskEvents: EVENTS,

  securityCertificate: SECURITY,
  securityCertStore: SECURITY,
  securityKey: SECURITY,
  securityKeyPassword: SECURITY,
  securityDigest: SECURITY,
  overrideBackends: 'result backends of your own are not built yet',

  taskCompression: COMPRESSION,
  resultCompression: COMPRESSION,
  taskProtocol: 'messages are sent in version 2 only; both are read',
  taskDefaultRateLimit: RATE_LIMITS,
  resultAcceptContent: 'results are read as JSON only yet',
  taskSerializer: 'messages are sent as JSON only yet',
  taskRemoteTracebacks: 'a Python traceback arrives as text',
  taskRejectOnWorkerLost: WORKER_LOST,
  taskRetryOnWorkerLost: WORKER_LOST,
  taskAllowErrorCbOnChordHeader: CHORDS,
  taskTimeLimit: HARD_LIMIT,
  taskAcksOnTimeout: PROCESSES,

  workerAgent: CLASSES,
  workerAutoscaler: CLASSES,
  workerConsumer: CLASSES,
  workerTimer: CLASSES,
  workerTimerPrecision: 'the timers of the core need no polling',
  workerCancelLongRunningTasksOnConnectionLoss: 'claims outlive a connection that comes back',
  workerDirect: 'queues of single workers are not built yet',
  workerDisableRateLimits: RATE_LIMITS,
  workerDeduplicateSuccessfulTasks: 'results are not asked for before a task is run',
  workerHijackRootLogger: 'it is about the logging module of Python',
  workerRedirectStdouts: 'the output of tasks is left as it is',
  workerRedirectStdoutsLevel: 'the output of tasks is left as it is',
  workerLostWait: PROCESSES,
  workerMaxMemoryPerChild: PROCESSES,
  workerMaxTasksPerChild: PROCESSES,
  workerPoolPutlocks: PROCESSES,
  workerPoolRestarts: PROCESSES,
  workerPoolStartMethod: PROCESSES,
  workerProcAliveTimeout: PROCESSES,
  workerEnablePrefetchCountReduction: 'what was running keeps its claim over a reconnect',
  workerDisablePrefetch: 'set workerPrefetchMultiplier to 1 and taskAcksLate for a similar effect',
  workerStateDb: 'revoked ids are not kept over restarts yet',
  workerDetectQuorumQueues: 'each queue has a prefetch of its own, of whatever kind it is',
  workerLogfile: DAEMON,
  workerPidfile: DAEMON,
  workerUid: DAEMON,
  workerGid: DAEMON,
  workerUmask: DAEMON,
  workerExecutable: DAEMON,

  resultCacheMax:
    'clients remember no results but those of rpc://, and of these 64 MiB, however many they are',
  resultExchange: RPC_EXCHANGE,
  resultExchangeType: RPC_EXCHANGE,
  resultSerializer: 'results are stored as JSON only yet',
  resultChordExpires: CHORDS,
  resultChordRetryInterval: CHORDS,
  resultChordJoinTimeout: CHORDS,
  resultFailureExpires: 'failures expire as other results yet',
  resultBackendMaxSleepBetweenRetriesMs: CORE,
  resultBackendMaxRetries: CORE,
  resultBackendBaseSleepBetweenRetriesMs: CORE,
  resultBackendAlwaysRetry: CORE,
  resultBackendThreadSafe: CORE,
  redisMaxConnections: CORE,
  redisRetryOnTimeout: CORE,
  redisSocketKeepalive: CORE,
  redisBackendHealthCheckInterval: CORE,
  redisBackendCredentialProvider: 'user and password are taken from the URL only yet',
  redisClientName: CORE,
  databaseEngineOptions: 'they are options of a Python library',
  databaseEngineCallback: 'it is called with an object of a Python library',
  databaseShortLivedSessions: CORE,
  databaseTableSchemas: 'SQLite has no schemas, and other databases are not built yet',
  databaseTableNames: 'the tables have the names that Celery gives them',
  databaseCreateTablesAtSetup: 'tables are made when the backend is opened',

  cacheBackendOptions: STORES,
  cassandraEntryTtl: STORES,
  cassandraKeyspace: STORES,
  cassandraPort: STORES,
  cassandraReadConsistency: STORES,
  cassandraServers: STORES,
  cassandraBundlePath: UNREAD,
  cassandraSecureBundlePath: STORES,
  cassandraTable: STORES,
  cassandraWriteConsistency: STORES,
  cassandraAuthProvider: STORES,
  cassandraAuthKwargs: STORES,
  cassandraOptions: STORES,
  s3AccessKeyId: STORES,
  s3SecretAccessKey: STORES,
  s3Bucket: STORES,
  s3BasePath: STORES,
  s3EndpointUrl: STORES,
  s3Region: STORES,
  dynamodbEndpointUrl: STORES,
  azureblockblobContainerName: STORES,
  azureblockblobRetryInitialBackoffSec: UNREAD,
  azureblockblobRetryIncrementBase: UNREAD,
  azureblockblobRetryMaxAttempts: UNREAD,
  azureblockblobBasePath: STORES,
  azureblockblobConnectionTimeout: STORES,
  azureblockblobReadTimeout: STORES,
  gcsBucket: STORES,
  gcsProject: STORES,
  gcsBasePath: STORES,
  gcsTtl: STORES,
  gcsThreadpoolMaxsize: STORES,
  firestoreProject: STORES,
  couchbaseBackendSettings: STORES,
  arangodbBackendSettings: STORES,
  mongodbBackendSettings: STORES,
  cosmosdbsqlDatabaseName: STORES,
  cosmosdbsqlCollectionName: STORES,
  cosmosdbsqlConsistencyLevel: STORES,
  cosmosdbsqlMaxRetryAttempts: STORES,
  cosmosdbsqlMaxRetryWaitTime: STORES,
  elasticsearchRetryOnTimeout: STORES,
  elasticsearchMaxRetries: STORES,
  elasticsearchTimeout: STORES,
  elasticsearchSaveMetaAsText: STORES,
}

/**
 * The same for the options of tasks. `unless` is a value that asks for what happens anyway; `serializer` and
 * `compression` are refused when a call is sent, unless they are what there is.
 */
export const taskOptionsNotHonoured: {
  readonly [K in keyof AnyTaskOptions]?: { readonly reason: string; readonly unless?: unknown }
} = {
  rateLimit: { reason: RATE_LIMITS },
  sendEvents: { reason: EVENTS, unless: false },
  serializer: { reason: 'messages and results are in JSON only yet', unless: 'json' },
  compression: { reason: COMPRESSION },
  timeLimit: { reason: HARD_LIMIT },
  acksOnTimeout: { reason: PROCESSES },
  rejectOnWorkerLost: { reason: WORKER_LOST },
  retryOnWorkerLost: { reason: WORKER_LOST },
}
