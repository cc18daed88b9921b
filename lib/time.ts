import type { Settings } from './config/conf.ts'
import { CeleriacError } from './errors.ts'
import { DateTime, pythonIsoFormat } from './serialization/types.ts'

/** The zone of times that name none: `timezone`; without it UTC, or this machine's where `enableUtc` is off. */
export function defaultTimeZone(conf: Pick<Settings, 'timezone' | 'enableUtc'>): string {
  return conf.timezone ?? (conf.enableUtc ? 'UTC' : Intl.DateTimeFormat().resolvedOptions().timeZone)
}

/**
 * ISO 8601 with an offset, of a Date or of such text; a text without an offset is in `timeZone`. Null stays null.
 * `name` is the option, for errors.
 */
export function timeText(value: unknown, name: string, timeZone: string): string | null {
  if (value === undefined || value === null) return null
  if (value instanceof Date && !Number.isNaN(value.getTime())) {
    return value instanceof DateTime ? withOffset(value.iso, timeZone) : pythonIsoFormat(value)
  }
  if (typeof value !== 'string' || Number.isNaN(parseTime(value, timeZone))) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      `${name} must be a valid Date or ISO 8601 text, not ${typeof value === 'string' ? JSON.stringify(value) : String(value)}`,
    )
  }
  return withOffset(value.trim().replace(' ', 'T'), timeZone)
}

/** Milliseconds since the epoch; NaN when it is no time. */
export function parseTime(iso: string, timeZone: string): number {
  const short = iso
    .trim()
    .replace(' ', 'T')
    .replace(/(\.\d{3})\d+/, '$1')
  if (hasOffset(short)) return Date.parse(short)
  const wall = Date.parse(short.length === 10 ? `${short}T00:00:00Z` : `${short}Z`)
  return Number.isNaN(wall) ? wall : wall - offsetAt(wall, timeZone)
}

/** ISO 8601 as Python writes it in UTC, `seconds` after `now` (milliseconds since the epoch). */
export function isoAfter(now: number, seconds: number): string {
  const date = new Date(now + seconds * 1000)
  if (Number.isNaN(date.getTime())) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      `${seconds} seconds from now is beyond the calendar`,
    )
  }
  return pythonIsoFormat(date)
}

function hasOffset(iso: string): boolean {
  return /(?:Z|[+-]\d\d:?\d\d(?::?\d\d)?)$/i.test(iso.slice(10))
}

function withOffset(iso: string, timeZone: string): string {
  if (hasOffset(iso)) return iso
  const minutes = Math.round((Date.parse(`${wallClock(iso)}Z`) - parseTime(iso, timeZone)) / 60_000)
  const digits = (value: number): string => String(Math.trunc(value)).padStart(2, '0')
  const size = Math.abs(minutes)
  return `${iso.length === 10 ? `${iso}T00:00:00` : iso}${minutes < 0 ? '-' : '+'}${digits(size / 60)}:${digits(size % 60)}`
}

function wallClock(iso: string): string {
  const short = iso
    .trim()
    .replace(' ', 'T')
    .replace(/(\.\d{3})\d+/, '$1')
  return short.length === 10 ? `${short}T00:00:00` : short
}

/** How far ahead of UTC a zone is when its clocks show `wall` (read as if it were UTC), in milliseconds. */
function offsetAt(wall: number, timeZone: string): number {
  if (timeZone === 'UTC') return 0
  // The offset at the time that is meant, not at the one that the wall clock would be in UTC.
  const guess = zoneOffset(wall, timeZone)
  return zoneOffset(wall - guess, timeZone)
}

function zoneOffset(time: number, timeZone: string): number {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  })
  const parts = Object.fromEntries(format.formatToParts(time).map(({ type, value }) => [type, Number(value)]))
  const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = parts
  return Date.UTC(year, month - 1, day, hour, minute, second) - Math.floor(time / 1000) * 1000
}
