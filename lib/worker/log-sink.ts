/** The levels of a log, mildest first. */
export const LEVELS = ['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'] as const

/** A level of a log line, under Python's names. */
export type LogLevel = (typeof LEVELS)[number]

/** One line for a log. */
export interface LogRecord {
  readonly level: LogLevel
  /** Celery's logger name, such as `celery.app.trace`. */
  readonly logger: string
  readonly message: string
  readonly taskId?: string | null
  readonly taskName?: string | null
  /** Milliseconds since 1970; now when absent. */
  readonly atMs?: number
}

/** Where a worker writes its log. */
export interface LogSink {
  /** The mildest level that is written. */
  readonly level: LogLevel
  write(record: LogRecord): void
}

/** Whether a line of `level` would be written. */
export function isLogged(sink: LogSink, level: LogLevel): boolean {
  return LEVELS.indexOf(level) >= LEVELS.indexOf(sink.level)
}

/** The sink of a worker that was given none: warnings and worse go to stderr. */
export const stderrSink: LogSink = {
  level: 'WARNING',
  write({ level, logger, message }) {
    if (isLogged(stderrSink, level)) process.stderr.write(`[${level}/${logger}] ${message}\n`)
  },
}
