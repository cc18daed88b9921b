import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'

import { setNativeLogger } from '../native.ts'
import { expandNodeName } from './node-name.ts'
import { formatter, inColor, jsonFormatter } from './format.ts'
import type { LevelName } from './level.ts'
import { parseLevel } from './level.ts'
import { configureLogging, emit } from './logger.ts'
import { FileSink } from './sink.ts'

/** The settings that say how lines look; those of an app's `conf`. */
export interface LogSettings {
  readonly workerLogFormat: string
  readonly workerTaskLogFormat: string
  readonly workerLogDatefmt: string | null
  readonly workerTaskLogDatefmt: string | null
  readonly workerLogColor: boolean | null
}

/** What a command line says about logging. */
export interface LogOptions {
  readonly level: LevelName
  /** File to write to; `%n`, `%h`, `%d` stand for parts of the node name, `%p` for the process id. Default: stderr. */
  readonly file?: string | undefined
  /** Node name that `file` may speak of. */
  readonly hostname?: string | undefined
  /** False for never; default: what the settings say, else whether standard error is a terminal. */
  readonly color?: boolean | undefined
  /** A JSON object a line, whatever the format. */
  readonly json?: boolean | undefined
}

/** Sets up logging as a command line and the settings of an app say. */
export function setUpLogging(settings: LogSettings, options: LogOptions): void {
  const { level, file, json = false } = options
  const path = file === undefined ? undefined : expandNodeName(file, options.hostname ?? '')
  if (path !== undefined) mkdirSync(dirname(path), { recursive: true })
  const line = formatter(settings.workerLogFormat, settings.workerLogDatefmt)
  const taskLine = formatter(settings.workerTaskLogFormat, settings.workerTaskLogDatefmt)
  const color = !json && usesColor(settings, options)
  configureLogging({
    level,
    format: json ? jsonFormatter : color ? inColor(line) : line,
    taskFormat: json ? jsonFormatter : color ? inColor(taskLine) : taskLine,
    sink: path === undefined ? FileSink.standardError() : FileSink.file(path),
  })
}

/** Colour is for terminals: never in a file, and not where NO_COLOR is set. */
function usesColor(settings: LogSettings, options: LogOptions): boolean {
  if (options.file !== undefined || options.color === false || process.env['NO_COLOR']) return false
  return options.color ?? settings.workerLogColor ?? process.stderr.isTTY === true
}

/** Has the core's log records written with the others. */
export function logNativeRecords(level: LevelName): void {
  setNativeLogger(level, (records) => {
    for (const record of records) {
      emit({
        level: parseLevel(record.level),
        logger: record.logger,
        message: record.message,
        atMs: record.atMs,
        fromTask: false,
        taskId: record.taskId,
        taskName: record.taskName,
        stack: null,
      })
    }
  })
}
