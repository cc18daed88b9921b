import {
  bool,
  dict,
  int,
  list,
  name,
  nullable,
  seconds,
  setting,
  string,
  stringOrNumber,
  wholeSeconds,
} from '../parse.ts'
import type { Table } from '../parse.ts'

/** Settings of the result backends other than Redis and the database, each read by its backend alone. */
export interface ResultStoreSettings {
  /** The URL behind `cache`, such as `memcached://host:11211/`. */
  cacheBackend: string | null
  /** Options of the cache client. */
  cacheBackendOptions: Record<string, unknown>

  /** Seconds after which Cassandra deletes a row. */
  cassandraEntryTtl: number | null
  /** The keyspace. */
  cassandraKeyspace: string | null
  /** The port; null is 9042. */
  cassandraPort: string | number | null
  /** The consistency of reads; null is LOCAL_QUORUM. */
  cassandraReadConsistency: string | null
  /** The hosts. */
  cassandraServers: readonly string[] | null
  /** Declared by Celery and read by nothing: see `cassandraSecureBundlePath`. */
  cassandraBundlePath: string | null
  /** The bundle with address and certificates of a hosted database. */
  cassandraSecureBundlePath: string | null
  /** The table. */
  cassandraTable: string | null
  /** The consistency of writes; null is LOCAL_QUORUM. */
  cassandraWriteConsistency: string | null
  /** The class that logs in. */
  cassandraAuthProvider: string | null
  /** What that class is made with. */
  cassandraAuthKwargs: Record<string, unknown> | null
  /** Options of the client. */
  cassandraOptions: Record<string, unknown>

  /** The id of the access key. */
  s3AccessKeyId: string | null
  /** The access key. */
  s3SecretAccessKey: string | null
  /** The bucket. */
  s3Bucket: string | null
  /** Put before the name of each object, with nothing between. */
  s3BasePath: string | null
  /** The URL of a server other than Amazon's. */
  s3EndpointUrl: string | null
  /** The region. */
  s3Region: string | null
  /** The URL of a DynamoDB other than Amazon's. */
  dynamodbEndpointUrl: string | null

  /** The container. */
  azureblockblobContainerName: string
  /** Declared by Celery and read by nothing. */
  azureblockblobRetryInitialBackoffSec: number
  /** Declared by Celery and read by nothing. */
  azureblockblobRetryIncrementBase: number
  /** Declared by Celery and read by nothing. */
  azureblockblobRetryMaxAttempts: number
  /** Put before the name of each blob, with nothing between. */
  azureblockblobBasePath: string
  /** Seconds that connecting may take. */
  azureblockblobConnectionTimeout: number
  /** Seconds that an answer may take. */
  azureblockblobReadTimeout: number

  /** The bucket. */
  gcsBucket: string | null
  /** The project. */
  gcsProject: string | null
  /** The folder in the bucket. */
  gcsBasePath: string
  /** Seconds after which an object may be deleted; the bucket needs a rule for it. */
  gcsTtl: number
  /** How many connections to the bucket. */
  gcsThreadpoolMaxsize: number
  /** The project of the Firestore that counts chords; null takes `gcsProject`. */
  firestoreProject: string | null

  /** Host, port, bucket, user and password. */
  couchbaseBackendSettings: Record<string, unknown> | null
  /** Host, port, database, collection, user and password. */
  arangodbBackendSettings: Record<string, unknown> | null
  /** Host, port, database, collections, user, password and options. */
  mongodbBackendSettings: Record<string, unknown> | null

  /** The database. */
  cosmosdbsqlDatabaseName: string
  /** The collection. */
  cosmosdbsqlCollectionName: string
  /** The consistency. */
  cosmosdbsqlConsistencyLevel: string
  /** How often the client tries again. */
  cosmosdbsqlMaxRetryAttempts: number
  /** For how many seconds the client tries again. */
  cosmosdbsqlMaxRetryWaitTime: number

  /** Whether a request that timed out is sent again. */
  elasticsearchRetryOnTimeout: boolean | null
  /** How often; null is 3. */
  elasticsearchMaxRetries: number | null
  /** Seconds that a request may take; null is 10. */
  elasticsearchTimeout: number | null
  /** Whether a result is one text, rather than an object with fields. */
  elasticsearchSaveMetaAsText: boolean
}

export const resultStoreSettings: Table<ResultStoreSettings> = {
  cacheBackend: setting(nullable(string), null),
  cacheBackendOptions: setting(dict, {}),

  cassandraEntryTtl: setting(nullable(seconds), null),
  cassandraKeyspace: setting(nullable(string), null),
  cassandraPort: setting(nullable(stringOrNumber), null),
  cassandraReadConsistency: setting(nullable(string), null),
  cassandraServers: setting(nullable(list), null),
  cassandraBundlePath: setting(nullable(string), null),
  cassandraSecureBundlePath: setting(nullable(string), null),
  cassandraTable: setting(nullable(string), null),
  cassandraWriteConsistency: setting(nullable(string), null),
  cassandraAuthProvider: setting(nullable(string), null),
  cassandraAuthKwargs: setting(nullable(dict), null),
  cassandraOptions: setting(dict, {}),

  s3AccessKeyId: setting(nullable(string), null),
  s3SecretAccessKey: setting(nullable(string), null),
  s3Bucket: setting(nullable(string), null),
  s3BasePath: setting(nullable(string), null),
  s3EndpointUrl: setting(nullable(string), null),
  s3Region: setting(nullable(string), null),
  dynamodbEndpointUrl: setting(nullable(string), null),

  azureblockblobContainerName: setting(name, 'celery'),
  azureblockblobRetryInitialBackoffSec: setting(wholeSeconds, 2),
  azureblockblobRetryIncrementBase: setting(int(), 2),
  azureblockblobRetryMaxAttempts: setting(int(), 3),
  azureblockblobBasePath: setting(string, ''),
  azureblockblobConnectionTimeout: setting(wholeSeconds, 20),
  azureblockblobReadTimeout: setting(wholeSeconds, 120),

  gcsBucket: setting(nullable(string), null),
  gcsProject: setting(nullable(string), null),
  gcsBasePath: setting(string, ''),
  gcsTtl: setting(seconds, 0),
  gcsThreadpoolMaxsize: setting(int(1), 10),
  firestoreProject: setting(nullable(string), null),

  couchbaseBackendSettings: setting(nullable(dict), null),
  arangodbBackendSettings: setting(nullable(dict), null),
  mongodbBackendSettings: setting(nullable(dict), null),

  cosmosdbsqlDatabaseName: setting(name, 'celerydb'),
  cosmosdbsqlCollectionName: setting(name, 'celerycol'),
  cosmosdbsqlConsistencyLevel: setting(name, 'Session'),
  cosmosdbsqlMaxRetryAttempts: setting(int(), 9),
  cosmosdbsqlMaxRetryWaitTime: setting(wholeSeconds, 30),

  elasticsearchRetryOnTimeout: setting(nullable(bool), null),
  elasticsearchMaxRetries: setting(nullable(int()), null),
  elasticsearchTimeout: setting(nullable(seconds), null),
  elasticsearchSaveMetaAsText: setting(bool, true),
}
