import { CeleriacError } from '../errors.ts'
import { settingFromText } from './conf.ts'
import { requireSetting } from './lookup.ts'
import type { SettingName, SettingsInput } from './settings.ts'

const SETTING = /^([^=]+)=(.*)$/s
const CAST = /^\((\w+)\)(.*)$/s

/** The types that a value may be cast to, as in `(int)5`. */
const CASTS: Readonly<Record<string, (text: string) => unknown>> = {
  string: (text) => text,
  any: (text) => text,
  int: wholeNumber,
  float: aNumber,
  bool: (text) => settingFromText('taskAcksLate', text),
  json: (text) => JSON.parse(text) as unknown,
  tuple: (text) => JSON.parse(text) as unknown,
  list: (text) => JSON.parse(text) as unknown,
  dict: (text) => JSON.parse(text) as unknown,
}

function aNumber(text: string): number {
  const number = Number(text)
  if (text.trim() === '' || Number.isNaN(number)) throw new TypeError(`${JSON.stringify(text)} is no number`)
  return number
}

function wholeNumber(text: string): number {
  const number = aNumber(text)
  if (!Number.isInteger(number)) throw new TypeError(`${JSON.stringify(text)} is no whole number`)
  return number
}

/**
 * The settings at the end of a command line: `task_acks_late=no`, `worker.prefetch_multiplier=8`,
 * `.prefetch_multiplier=8` in the command's own namespace, and `task_routes=(json){…}` with a type. Throws
 * ERR_CELERIAC_UNKNOWN_SETTING or ERR_CELERIAC_INVALID_SETTING, which names the setting.
 */
export function settingsFromCommandLine(args: readonly string[], namespace = 'celery'): SettingsInput {
  const settings: { [K in SettingName]?: unknown } = {}
  for (const argument of args) {
    const [, given, text] = SETTING.exec(argument) ?? []
    if (given === undefined || text === undefined) {
      throw new CeleriacError(
        'ERR_CELERIAC_INVALID_SETTING',
        `cannot understand ${JSON.stringify(argument)}; a setting is given as name=value`,
      )
    }
    const key = given.replaceAll('.', '_')
    const { name } = requireSetting((key.startsWith('_') ? namespace + key : key).toLowerCase())
    settings[name] = valueOf(name, text, given)
  }
  return settings as SettingsInput
}

function valueOf(name: SettingName, text: string, given: string): unknown {
  const [, type = '', rest = ''] = CAST.exec(text) ?? []
  const cast = Object.hasOwn(CASTS, type) ? CASTS[type] : undefined
  if (cast === undefined) return settingFromText(name, text)
  try {
    return cast(rest)
  } catch (error) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_SETTING',
      `the setting ${given} cannot be read as ${type}: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    )
  }
}
