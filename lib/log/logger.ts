import { currentTask } from '../current-task.ts'
import { CeleriacError } from '../errors.ts'
import { type Formatter, plainFormatter } from './format.ts'
import { type LevelName, levelNumber } from './level.ts'
import { type LogRecord, stackOf } from './record.ts'
import { FileSink, type Sink } from './sink.ts'

/** How the process logs. */
export interface LogConfiguration {
  readonly level: LevelName
  readonly format: Formatter
  /** Format of the lines of task loggers. */
  readonly taskFormat: Formatter
  readonly sink: Sink
}

interface LogState {
  configuration: LogConfiguration | undefined
  threshold: number
}

/** One for the process, also where two copies of celeriac are loaded in it. */
const KEY = Symbol.for('celeriac.log')
const holder = globalThis as { [KEY]?: LogState }
/** As in Python, where nothing is set up, warnings and worse go to standard error. */
const state: LogState = (holder[KEY] ??= { configuration: undefined, threshold: levelNumber('WARNING') })

/** Sets up logging for the process; what was buffered for an earlier set-up is written first. */
export function configureLogging(configuration: LogConfiguration | undefined): void {
  if (state.configuration !== undefined && state.configuration.sink !== configuration?.sink)
    state.configuration.sink.close()
  state.configuration = configuration
  state.threshold = levelNumber(configuration?.level ?? 'WARNING')
}

/** Whether {@link configureLogging} was called. */
export function isLoggingConfigured(): boolean {
  return state.configuration !== undefined
}

/** The level below which nothing is logged. */
export function logLevel(): LevelName {
  return state.configuration?.level ?? 'WARNING'
}

/** Writes what is buffered. */
export function flushLog(): void {
  state.configuration?.sink.flush()
}

/** Logs a record, if its level is logged. */
export function emit(record: LogRecord): void {
  if (levelNumber(record.level) < state.threshold) return
  const { format, taskFormat, sink } = (state.configuration ??= {
    level: 'WARNING',
    format: plainFormatter,
    taskFormat: plainFormatter,
    sink: FileSink.standardError(),
  })
  const line = (record.fromTask ? taskFormat : format)(record)
  sink.write(line, levelNumber(record.level) >= levelNumber('ERROR'))
}

/** What a line may have besides its message. */
export interface LogExtra {
  readonly taskId?: string | null
  readonly taskName?: string | null
  /** An error whose stack is printed below the line. */
  readonly error?: unknown
}

/** Writes log lines under one name. */
export class Logger {
  readonly name: string
  readonly #fromTask: boolean

  constructor(name: string, fromTask = false) {
    this.name = name
    this.#fromTask = fromTask
  }

  /** Whether lines of this level are logged: ask before making an expensive one. */
  isEnabledFor(level: LevelName): boolean {
    return levelNumber(level) >= state.threshold
  }

  log(level: LevelName, message: string, extra: LogExtra = {}): void {
    if (!this.isEnabledFor(level)) return
    const task = extra.taskId === undefined ? currentTask() : undefined
    emit({
      level,
      logger: this.name,
      message,
      atMs: Date.now(),
      fromTask: this.#fromTask,
      taskId: extra.taskId ?? task?.request.id ?? null,
      taskName: extra.taskName ?? task?.name ?? null,
      stack: extra.error === undefined ? null : stackOf(extra.error),
    })
  }

  debug(message: string, extra?: LogExtra): void {
    this.log('DEBUG', message, extra)
  }

  info(message: string, extra?: LogExtra): void {
    this.log('INFO', message, extra)
  }

  warning(message: string, extra?: LogExtra): void {
    this.log('WARNING', message, extra)
  }

  /** {@link warning}, as the console calls it. */
  warn(message: string, extra?: LogExtra): void {
    this.log('WARNING', message, extra)
  }

  error(message: string, extra?: LogExtra): void {
    this.log('ERROR', message, extra)
  }

  critical(message: string, extra?: LogExtra): void {
    this.log('CRITICAL', message, extra)
  }

  /** An error with its stack (`logger.exception`). */
  exception(message: string, error: unknown, extra: LogExtra = {}): void {
    this.log('ERROR', message, { ...extra, error })
  }
}

const loggers = new Map<string, Logger>()

/** The logger of that name. */
export function getLogger(name: string): Logger {
  let logger = loggers.get(name)
  if (logger === undefined) loggers.set(name, (logger = new Logger(name)))
  return logger
}

const RESERVED = new Set(['celery', 'celery.task'])

/**
 * A logger for the bodies of tasks: its lines have the name and id of the running task (`workerTaskLogFormat`).
 * `celery` and `celery.task` are no names for it: ERR_CELERIAC_INVALID_ARGUMENT.
 */
export function getTaskLogger(name: string): Logger {
  if (RESERVED.has(name)) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      `the logger name '${name}' is reserved: take your own`,
    )
  }
  return new Logger(name, true)
}
