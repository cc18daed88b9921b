import {
  bool,
  int,
  name,
  nullable,
  seconds,
  setting,
  string,
  stringOrNumber,
  wholeSeconds,
} from '../parse.ts'
import type { Table } from '../parse.ts'
import { beatSchedule } from '../parse-structures.ts'
import type { BeatEntry } from '../types.ts'

/** Settings of beat, which sends tasks by schedule. */
export interface BeatSettings {
  /** Whether beat answers to ping. */
  beatEnableRemoteControl: boolean
  /** Seconds without a tick after which it does not; 0 is never, null is twice its loop interval, at least 60. */
  beatRemoteControlMaxTickAge: number | null
  /** The longest sleep between two looks at the schedule, in seconds; 0 leaves it to the scheduler. */
  beatMaxLoopInterval: number
  /** What to send when, by name of entry. */
  beatSchedule: Record<string, BeatEntry>
  /** The class of the scheduler. */
  beatScheduler: string
  /** The file in which the scheduler keeps when it sent what. */
  beatScheduleFilename: string
  /** After how many tasks that file is written; 0 writes it by time alone. */
  beatSyncEvery: number
  /** How late in seconds a missed run may still be made up for; null is always. */
  beatCronStartingDeadline: number | null
  /** The default of `--logfile`. */
  beatLogfile: string | null
  /** The default of `--pidfile`. */
  beatPidfile: string | null
  /** The default of `--uid`. */
  beatUid: string | number | null
  /** The default of `--gid`. */
  beatGid: string | number | null
  /** The default of `--umask`. */
  beatUmask: string | number | null
  /** The default of `--executable`. */
  beatExecutable: string | null
}

export const beatSettings: Table<BeatSettings> = {
  beatEnableRemoteControl: setting(bool, false),
  beatRemoteControlMaxTickAge: setting(nullable(seconds), null),
  beatMaxLoopInterval: setting(seconds, 0),
  beatSchedule: setting(beatSchedule, {}),
  beatScheduler: setting(name, 'celery.beat:PersistentScheduler'),
  beatScheduleFilename: setting(name, 'celerybeat-schedule'),
  beatSyncEvery: setting(int(), 0),
  beatCronStartingDeadline: setting(nullable(wholeSeconds), null),
  beatLogfile: setting(nullable(string), null),
  beatPidfile: setting(nullable(string), null),
  beatUid: setting(nullable(stringOrNumber), null),
  beatGid: setting(nullable(stringOrNumber), null),
  beatUmask: setting(nullable(stringOrNumber), null),
  beatExecutable: setting(nullable(string), null),
}
