import { CeleriacError } from '../errors.ts'

/** Levels of log lines, as Python's logging has them; FATAL is another name of CRITICAL. */
const LEVELS = { DEBUG: 10, INFO: 20, WARNING: 30, ERROR: 40, CRITICAL: 50 } as const

/** Name of a level. */
export type LevelName = keyof typeof LEVELS

/** All levels, lowest first. */
export const levelNames = Object.keys(LEVELS) as LevelName[]

/** Number of a level (`record.levelno`): 10 for DEBUG to 50 for CRITICAL. */
export function levelNumber(level: LevelName): number {
  return LEVELS[level]
}

/** The level of that name, in upper or lower case; FATAL and WARN too. ERR_CELERIAC_INVALID_ARGUMENT for any other. */
export function parseLevel(text: string): LevelName {
  const name = text.trim().toUpperCase()
  const level = name === 'FATAL' ? 'CRITICAL' : name === 'WARN' ? 'WARNING' : name
  if (!Object.hasOwn(LEVELS, level)) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      `'${text}' is no log level: choose ${levelNames.join(', ')} or FATAL`,
    )
  }
  return level as LevelName
}
