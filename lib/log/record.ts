import { readSafely, safeText } from '../errors.ts'
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
  if (!(error instanceof Error)) return safeText(error)
  const lines: string[] = []
  const seen = new Set<unknown>()
  for (let current: unknown = error; current !== undefined && !seen.has(current);) {
    seen.add(current)
    const text = current instanceof Error ? ownStack(current) : safeText(current)
    lines.push(lines.length === 0 ? text : `Caused by: ${text}`)
    current = current instanceof Error ? readSafely(current, 'cause') : undefined
  }
  return lines.join('\n')
}

function ownStack(error: Error): string {
  const stack = readSafely(error, 'stack')
  if (stack !== undefined && stack !== null) return safeText(stack)
  return `${safeText(readSafely(error, 'name'))}: ${safeText(readSafely(error, 'message'))}`
}
