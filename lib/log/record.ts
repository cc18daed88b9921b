import type { LevelName } from './level.ts'

/** One thing to be logged. */
export interface LogRecord {
  readonly level: LevelName
  /** Celery's name of the logger, such as `celery.app.trace`. */
  readonly logger: string
  readonly message: string
  /** Milliseconds since 1970. */
  readonly atMs: number
  /** Whether it comes from a task's own logger, which has a format of its own. */
  readonly fromTask: boolean
  readonly taskId: string | null
  readonly taskName: string | null
  /** Stack of an error, printed below the message; null without one. */
  readonly stack: string | null
}

/** The stack of an error with those of its causes, as it is logged and stored. */
export function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const lines: string[] = []
  const seen = new Set<unknown>()
  for (let current: unknown = error; current !== undefined && !seen.has(current);) {
    seen.add(current)
    const text =
      current instanceof Error ? (current.stack ?? `${current.name}: ${current.message}`) : String(current)
    lines.push(lines.length === 0 ? text : `Caused by: ${text}`)
    current = current instanceof Error ? current.cause : undefined
  }
  return lines.join('\n')
}
