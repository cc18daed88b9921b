import {
  bool,
  callable,
  choice,
  either,
  int,
  name,
  nullable,
  number,
  seconds,
  setting,
  string,
  urls,
} from '../parse.ts'
import type { Parser, Table } from '../parse.ts'
import { tlsOptions, transportOptions } from '../parse-structures.ts'
import type { FailoverStrategy, TlsOptions, TransportOptions } from '../types.ts'

/** Settings of the connection to the broker. */
export interface BrokerSettings {
  /** Where the broker is; several URLs are tried in turn. CELERY_BROKER_URL in the environment wins. */
  brokerUrl: string | readonly string[] | null
  /** Where workers consume from; CELERY_BROKER_READ_URL wins. Null takes `brokerUrl`. */
  brokerReadUrl: string | readonly string[] | null
  /** Where messages are published to; CELERY_BROKER_WRITE_URL wins. Null takes `brokerUrl`. */
  brokerWriteUrl: string | readonly string[] | null
  /** The transport where the URL names none. */
  brokerTransport: string | null
  /** Options of the transport, such as `visibilityTimeout`. */
  brokerTransportOptions: TransportOptions
  /** Seconds that one attempt to connect may take; null takes 4. */
  brokerConnectionTimeout: number | null
  /** Whether a worker reconnects when the broker goes away; otherwise it ends. */
  brokerConnectionRetry: boolean
  /** The same for its first connection; null takes `brokerConnectionRetry`. */
  brokerConnectionRetryOnStartup: boolean | null
  /** Attempts before a worker gives up; 0 and null are without end. */
  brokerConnectionMaxRetries: number | null
  /** Whether an error of a channel, not of the connection, is survived by reconnecting too. */
  brokerChannelErrorRetry: boolean
  /** Which of several brokers comes next: `round-robin`, `shuffle`, or a function. */
  brokerFailoverStrategy: string | FailoverStrategy | null
  /** Seconds between AMQP heartbeats, at most what the server suggests; 0 and null take that. `heartbeat` in a URL's query wins. */
  brokerHeartbeat: number | null
  /** How many times an interval the heartbeat is checked. */
  brokerHeartbeatCheckrate: number
  /** The SASL mechanism of AMQP; null is PLAIN. */
  brokerLoginMethod: string | null
  /** The type of the queues in which RabbitMQ holds delayed messages, for apps with quorum queues. */
  brokerNativeDelayedDeliveryQueueType: 'classic' | 'quorum'
  /** How many connections may be open at once; 0 and null open one for each use. */
  brokerPoolLimit: number | null
  /** Seconds to wait for a free connection; null waits without end. */
  brokerPoolAcquireTimeout: number | null
  /** TLS: true, or the files to use. */
  brokerUseSsl: boolean | TlsOptions | null
  /** The host, where no URL is set. */
  brokerHost: string | null
  /** The port, where the URL has none. */
  brokerPort: number | null
  /** The user, where the URL has none. */
  brokerUser: string | null
  /** The password, where the URL has none. */
  brokerPassword: string | null
  /** The virtual host or database, where the URL has none. */
  brokerVhost: string | null
}

const failoverFunction: Parser<FailoverStrategy> = callable('a function')

export const brokerSettings: Table<BrokerSettings> = {
  brokerUrl: setting(nullable(urls), null),
  brokerReadUrl: setting(nullable(urls), null),
  brokerWriteUrl: setting(nullable(urls), null),
  brokerTransport: setting(nullable(name), null),
  brokerTransportOptions: setting(transportOptions, {}),
  brokerConnectionTimeout: setting(nullable(seconds), 4),
  brokerConnectionRetry: setting(bool, true),
  brokerConnectionRetryOnStartup: setting(nullable(bool), null),
  brokerConnectionMaxRetries: setting(nullable(int()), 100),
  brokerChannelErrorRetry: setting(bool, false),
  brokerFailoverStrategy: setting(
    nullable(either(failoverFunction, choice('string', 'round-robin', 'shuffle'))),
    null,
  ),
  brokerHeartbeat: setting(nullable({ ...seconds, type: 'int' }), 120),
  brokerHeartbeatCheckrate: setting({ ...number(), type: 'int' }, 3),
  brokerLoginMethod: setting(nullable(string), null),
  brokerNativeDelayedDeliveryQueueType: setting(choice('string', 'classic', 'quorum'), 'quorum'),
  brokerPoolLimit: setting(nullable(int()), 10),
  brokerPoolAcquireTimeout: setting(nullable(seconds), null),
  brokerUseSsl: setting(nullable(either(tlsOptions, bool)), false),
  brokerHost: setting(nullable(string), null),
  brokerPort: setting(nullable(int()), null),
  brokerUser: setting(nullable(string), null),
  brokerPassword: setting(nullable(string), null),
  brokerVhost: setting(nullable(string), null),
}
