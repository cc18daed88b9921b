import {
  bool,
  bytes,
  list,
  name,
  nullable,
  seconds,
  setting,
  string,
  stringOrNumber,
  strings,
  timezone,
} from '../parse.ts'
import type { Table } from '../parse.ts'

/** Settings of the app as a whole, of events, remote control and signed messages. */
export interface GeneralSettings {
  /** Serializers or content types that are decoded; a message in any other is refused. */
  acceptContent: readonly string[]
  /** The same for results; null takes `acceptContent`. */
  resultAcceptContent: readonly string[] | null
  /** Whether times in messages and schedules are in UTC. */
  enableUtc: boolean
  /** Modules that a worker imports when it starts. */
  imports: readonly string[]
  /** More modules for a worker to import, after `imports`. */
  include: readonly string[]
  /** The time zone of schedules and of times without an offset; null is UTC. */
  timezone: string | null

  /** Seconds after which a remote control command that nobody read is dropped. */
  controlQueueTtl: number | null
  /** Seconds after which an unused queue of remote control goes. */
  controlQueueExpires: number | null
  /** Whether queues of remote control belong to one connection. */
  controlQueueExclusive: boolean
  /** Whether queues of remote control survive a restart of the broker; not together with exclusive. */
  controlQueueDurable: boolean
  /** The first part of the names of the exchanges of remote control: `NAME.pidbox`. */
  controlExchange: string

  /** Seconds after which an unused event queue of a monitor goes. */
  eventQueueExpires: number | null
  /** Seconds after which an event that nobody read is dropped. */
  eventQueueTtl: number | null
  /** The first part of the name of a monitor's queue. */
  eventQueuePrefix: string
  /** Whether a monitor's queue belongs to one connection. */
  eventQueueExclusive: boolean
  /** Whether a monitor's queue survives a restart of the broker; not together with exclusive. */
  eventQueueDurable: boolean
  /** The serializer of events. */
  eventSerializer: string
  /** The exchange of events. */
  eventExchange: string
  /** Where `celeriac events` logs to. */
  eventsLogfile: string | null
  /** Where `celeriac events` writes its process id. */
  eventsPidfile: string | null
  /** The user that `celeriac events` becomes. */
  eventsUid: string | number | null
  /** The group that `celeriac events` becomes. */
  eventsGid: string | number | null
  /** The umask of `celeriac events`. */
  eventsUmask: string | number | null
  /** The program that runs a detached `celeriac events`. */
  eventsExecutable: string | null

  /** The file with the certificate by which we sign. */
  securityCertificate: string | null
  /** The folder, or glob, of certificates that are trusted. */
  securityCertStore: string | null
  /** The file with the key by which we sign. */
  securityKey: string | null
  /** The password of that key. */
  securityKeyPassword: string | Uint8Array | null
  /** The hash that is signed. */
  securityDigest: string

  /** Result backends of one's own: names and where they are found. */
  overrideBackends: Record<string, string>
}

export const generalSettings: Table<GeneralSettings> = {
  acceptContent: setting(list, ['json']),
  resultAcceptContent: setting(nullable(list), null),
  enableUtc: setting(bool, true),
  imports: setting(list, []),
  include: setting(list, []),
  timezone: setting(nullable(timezone), null),

  controlQueueTtl: setting(nullable(seconds), 300),
  controlQueueExpires: setting(nullable(seconds), 10),
  controlQueueExclusive: setting(bool, true),
  controlQueueDurable: setting(bool, false),
  controlExchange: setting(name, 'celery'),

  eventQueueExpires: setting(nullable(seconds), 60),
  eventQueueTtl: setting(nullable(seconds), 5),
  eventQueuePrefix: setting(name, 'celeryev'),
  eventQueueExclusive: setting(bool, true),
  eventQueueDurable: setting(bool, false),
  eventSerializer: setting(name, 'json'),
  eventExchange: setting(name, 'celeryev'),
  eventsLogfile: setting(nullable(string), null),
  eventsPidfile: setting(nullable(string), null),
  eventsUid: setting(nullable(stringOrNumber), null),
  eventsGid: setting(nullable(stringOrNumber), null),
  eventsUmask: setting(nullable(stringOrNumber), null),
  eventsExecutable: setting(nullable(string), null),

  securityCertificate: setting(nullable(string), null),
  securityCertStore: setting(nullable(string), null),
  securityKey: setting(nullable(string), null),
  securityKeyPassword: setting(nullable(bytes), null),
  securityDigest: setting(name, 'sha256'),

  overrideBackends: setting(strings, {}),
}
