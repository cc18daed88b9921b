import pc from 'picocolors'

import { CeleriacError } from '../errors.ts'
import { type LevelName, levelNumber } from './level.ts'
import type { LogRecord } from './record.ts'
import { asctime, strftime } from './time.ts'

/** Makes a line of a record, without the line feed. */
export type Formatter = (record: LogRecord) => string

/** Celery's name of this process in log lines. */
const PROCESS_NAME = 'MainProcess'
const STARTED_MS = Date.now() - process.uptime() * 1000

/** The fields of a Python log record that a format may name. */
const FIELDS: Readonly<Record<string, (record: LogRecord) => string | number>> = {
  created: (record) => record.atMs / 1000,
  levelname: (record) => record.level,
  levelno: (record) => levelNumber(record.level),
  message: (record) => record.message,
  msecs: (record) => record.atMs % 1000,
  name: (record) => record.logger,
  process: () => process.pid,
  processName: () => PROCESS_NAME,
  relativeCreated: (record) => record.atMs - STARTED_MS,
  task_id: (record) => record.taskId ?? '???',
  task_name: (record) => record.taskName ?? '???',
  thread: () => 0,
  threadName: () => 'MainThread',
}

const FIELD = /%(?:\((\w+)\)([-#0 +]*)(\d*)(?:\.(\d+))?([a-zA-Z])|%)/g

/**
 * A formatter for a format of Python's logging (`worker_log_format`), such as
 * `[%(asctime)s: %(levelname)s/%(processName)s] %(message)s`. `dateFormat` is one of `strftime`; without it times are
 * `2026-01-31 09:05:00,123`. ERR_CELERIAC_INVALID_SETTING names a field that there is none of.
 */
export function formatter(format: string, dateFormat: string | null = null): Formatter {
  const time =
    dateFormat === null
      ? (record: LogRecord) => asctime(record.atMs)
      : (record: LogRecord) => strftime(dateFormat, new Date(record.atMs))
  const parts: Array<string | Formatter> = []
  let end = 0
  for (const match of format.matchAll(FIELD)) {
    const [whole, name, flags = '', width = '', precision, conversion = 's'] = match
    parts.push(format.slice(end, match.index))
    end = match.index + whole.length
    if (name === undefined) {
      parts.push('%')
      continue
    }
    const field = name === 'asctime' ? time : Object.hasOwn(FIELDS, name) ? FIELDS[name] : undefined
    if (field === undefined) {
      throw new CeleriacError(
        'ERR_CELERIAC_INVALID_SETTING',
        `the log format names %(${name})s: there are asctime, ${Object.keys(FIELDS).join(', ')}`,
      )
    }
    const spec = { flags, width: Number(width || 0), precision, conversion }
    const isText = conversion === 's' && width === '' && precision === undefined
    parts.push(isText ? (record) => String(field(record)) : (record) => convert(field(record), spec))
  }
  parts.push(format.slice(end))
  const pieces = parts.filter((part) => part !== '')
  return (record) => {
    let line = ''
    for (const piece of pieces) line += typeof piece === 'string' ? piece : piece(record)
    return record.stack === null ? line : `${line}\n${record.stack}`
  }
}

function convert(
  value: string | number,
  spec: { flags: string; width: number; precision: string | undefined; conversion: string },
): string {
  const { flags, width, precision, conversion } = spec
  let text = String(value)
  if (conversion === 'd' || conversion === 'i') text = String(Math.trunc(Number(value)))
  else if (conversion === 'f') text = Number(value).toFixed(precision === undefined ? 6 : Number(precision))
  else if (precision !== undefined) text = text.slice(0, Number(precision))
  if (flags.includes('-')) return text.padEnd(width)
  return text.padStart(width, flags.includes('0') && conversion !== 's' ? '0' : ' ')
}

/** A JSON object a line: time (ISO 8601, UTC), level, logger, message, and task_id, task_name, stack where there are any. */
export const jsonFormatter: Formatter = (record) =>
  JSON.stringify({
    time: new Date(record.atMs).toISOString(),
    level: record.level,
    logger: record.logger,
    message: record.message,
    ...(record.taskId === null ? {} : { task_id: record.taskId }),
    ...(record.taskName === null ? {} : { task_name: record.taskName }),
    ...(record.stack === null ? {} : { stack: record.stack }),
  })

/** The message alone: what a program that set up no logging shows. */
export const plainFormatter: Formatter = (record) =>
  record.stack === null ? record.message : `${record.message}\n${record.stack}`

const colors = pc.createColors(true)
const PAINT: Readonly<Partial<Record<LevelName, (text: string) => string>>> = {
  DEBUG: colors.blue,
  WARNING: colors.yellow,
  ERROR: colors.red,
  CRITICAL: colors.magenta,
}

/** Lines in the colour of their level: INFO has none. */
export function inColor(format: Formatter): Formatter {
  return (record) => {
    const paint = PAINT[record.level]
    return paint === undefined ? format(record) : paint(format(record))
  }
}
