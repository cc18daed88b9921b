import { differingDefaults } from './differing-defaults.ts'
import { snakeCase } from './names.ts'
import type { EitherSpelling, SnakeCase } from './names.ts'
import type { Definition } from './parse.ts'
import { beatSettings } from './settings/beat.ts'
import type { BeatSettings } from './settings/beat.ts'
import { brokerSettings } from './settings/broker.ts'
import type { BrokerSettings } from './settings/broker.ts'
import { generalSettings } from './settings/general.ts'
import type { GeneralSettings } from './settings/general.ts'
import { ownSettings } from './settings/own.ts'
import type { OwnSettings } from './settings/own.ts'
import { resultStoreSettings } from './settings/result-stores.ts'
import type { ResultStoreSettings } from './settings/result-stores.ts'
import { resultSettings } from './settings/result.ts'
import type { ResultSettings } from './settings/result.ts'
import { taskSettings } from './settings/task.ts'
import type { TaskSettings } from './settings/task.ts'
import { workerSettings } from './settings/worker.ts'
import type { WorkerSettings } from './settings/worker.ts'

/** Every setting with the type of its value. */
export interface SettingValues
  extends
    BeatSettings,
    BrokerSettings,
    GeneralSettings,
    OwnSettings,
    ResultSettings,
    ResultStoreSettings,
    TaskSettings,
    WorkerSettings {}

/** The name of a setting: Celery's in camelCase. */
export type SettingName = keyof SettingValues

/** The name of a setting as Celery spells it. */
export type CelerySettingName = SnakeCase<SettingName>

/** Settings to set, each by its name in camelCase or as Celery spells it. What is undefined is left as it is. */
export type SettingsInput = EitherSpelling<SettingValues>

/** Settings by the names that they had before Celery 4, such as CELERY_ACKS_LATE. */
export type OldSettingsInput = { readonly [name: Uppercase<string>]: unknown }

const tables = {
  ...generalSettings,
  ...brokerSettings,
  ...taskSettings,
  ...workerSettings,
  ...beatSettings,
  ...resultSettings,
  ...resultStoreSettings,
  ...ownSettings,
}

/** How each setting is read, and Celery's default of it. */
export const definitions: { readonly [K in SettingName]: Definition<SettingValues[K]> } = tables

/** The names of all settings. */
export const settingNames = Object.keys(tables) as readonly SettingName[]

/** Whether a setting is one of celeriac's, unknown to Celery. */
export function isOwnSetting(name: SettingName): boolean {
  return Object.hasOwn(ownSettings, name)
}

/** What a setting is when nobody set it: Celery's default, but for the few in {@link differingDefaults}. */
export function defaultOf<K extends SettingName>(name: K): SettingValues[K] {
  const differing = differingDefaults as {
    readonly [N in SettingName]?: { readonly value: SettingValues[N] }
  }
  const override = differing[name]
  return override === undefined ? definitions[name].default : override.value
}

/** A setting as Celery spells it. */
export function celeryName(name: SettingName): CelerySettingName {
  return snakeCase(name)
}
