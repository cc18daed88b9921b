import { closest, distance } from 'fastest-levenshtein'
import { CeleriacError } from '../errors.ts'
import { camelCase } from './names.ts'
import { oldNames } from './old-names.ts'
import { celeryName, isOwnSetting, settingNames } from './settings.ts'
import type { SettingName } from './settings.ts'

/** Which of the spellings of a setting a name is. */
export type NameStyle = 'camelCase' | 'celery' | 'old'

/** A setting that was found by a name. */
export interface FoundSetting {
  readonly name: SettingName
  readonly style: NameStyle
}

const byName = new Map<string, FoundSetting>()
const oldNameOf = new Map<SettingName, string>()

for (const [old, name] of Object.entries(oldNames)) oldNameOf.set(name, old)
for (const name of settingNames) {
  if (!oldNameOf.has(name) && !isOwnSetting(name)) oldNameOf.set(name, celeryName(name).toUpperCase())
}
for (const [name, old] of oldNameOf) byName.set(old, { name, style: 'old' })
for (const name of settingNames) {
  byName.set(name, { name, style: 'camelCase' })
  // `imports` is spelled alike in both; then it says nothing about the style.
  if (celeryName(name) !== name) byName.set(celeryName(name), { name, style: 'celery' })
}

/** The setting of that name in any spelling: `taskAcksLate`, `task_acks_late`, or CELERY_ACKS_LATE of old. */
export function findSetting(name: string): FoundSetting | undefined {
  return byName.get(name)
}

/** The name that a setting had before Celery 4; undefined for our own. */
export function oldNameOfSetting(name: SettingName): string | undefined {
  return oldNameOf.get(name)
}

/** As {@link findSetting}, but throws ERR_CELERIAC_UNKNOWN_SETTING, which names the nearest, where there is none. */
export function requireSetting(name: string): FoundSetting {
  const found = findSetting(name)
  if (found !== undefined) return found
  const nearest = nearestSetting(camelCase(name.toLowerCase() === name ? name : looksOld(name)))
  const suggestion = name.includes('_') ? celeryName(nearest) : nearest
  throw new CeleriacError(
    'ERR_CELERIAC_UNKNOWN_SETTING',
    `there is no setting ${JSON.stringify(name)}; the nearest is ${JSON.stringify(suggestion)}`,
  )
}

/** How many settings have each word in their names. */
const wordCounts = new Map<string, number>()
for (const word of settingNames.flatMap(wordsOf)) wordCounts.set(word, (wordCounts.get(word) ?? 0) + 1)

/**
 * The setting that was meant: one that differs by a slip of the pen, else the one that shares the rarest words (`lease` is
 * `workerLease`), and of several of those the shortest. Where no word is shared, the one that is spelled most alike.
 */
function nearestSetting(name: string): SettingName {
  const alike = closest(name, [...settingNames]) as SettingName
  if (distance(name, alike) <= Math.max(2, name.length / 5)) return alike
  const given = wordsOf(name)
  let best = alike
  let highest = 0
  for (const each of settingNames) {
    const words = wordsOf(each)
    const shared = words.filter((word) => given.includes(word))
    // The words that it has besides decide only between those that share the same.
    const score =
      shared.reduce((sum, word) => sum + 1 / (wordCounts.get(word) ?? 1), 0) -
      (words.length - shared.length) / 10_000
    if (shared.length > 0 && score > highest) {
      best = each
      highest = score
    }
  }
  return best
}

function wordsOf(name: string): string[] {
  return name.split(/(?=[A-Z])/).map((word) => word.toLowerCase())
}

function looksOld(name: string): string {
  return name.toUpperCase() === name ? name.toLowerCase().replace(/^celery(d|beat)?_/, '') : name
}

/**
 * The setting for a short name, as Celery's `find_option`: `disable_rate_limits` is found as `workerDisableRateLimits`.
 * The preferred namespace is looked in first.
 */
export function findOption(name: string, namespace = ''): SettingName | undefined {
  const key = name.toLowerCase()
  const preferred = namespace === '' ? undefined : findSetting(`${namespace.toLowerCase()}_${key}`)
  if (preferred !== undefined) return preferred.name
  const exact = findSetting(key)
  if (exact !== undefined) return exact.name
  return settingNames.find((each) => {
    const celery: string = celeryName(each)
    return celery.slice(celery.indexOf('_') + 1) === key
  })
}
