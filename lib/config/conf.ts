import { inspect } from 'node:util'
import { CeleriacError } from '../errors.ts'
import { findOption, findSetting, oldNameOfSetting, requireSetting } from './lookup.ts'
import type { NameStyle } from './lookup.ts'
import { censor, isSecretName, MASK } from './mask.ts'
import type { SnakeCased } from './names.ts'
import { notHonoured } from './not-honoured.ts'
import { isDictionary, Mismatch } from './parse.ts'
import { celeryName, defaultOf, definitions, settingNames } from './settings.ts'
import type { OldSettingsInput, SettingName, SettingsInput, SettingValues } from './settings.ts'

/** Variables of the environment. */
export type Environment = Readonly<Record<string, string | undefined>>

/** How to read an object of settings. */
export interface ConfigOptions {
  /**
   * Only names that begin with this and `_` are settings, the rest of the object is none of ours: with `CELERY`,
   * `CELERY_TASK_ACKS_LATE` is `taskAcksLate`. In capitals when the namespace is.
   */
  readonly namespace?: string | undefined
}

/** What a listing of settings holds. */
export interface TableOptions {
  /** Whether settings that nobody set are in it too; false unless said. */
  readonly withDefaults?: boolean
  /** Whether secrets are masked; true unless said. */
  readonly censored?: boolean
}

type Layer = Map<SettingName, unknown>

const warned = new Set<string>()

function warnOnce(key: string, message: string, options: { type: string; code: string }): void {
  if (warned.has(key)) return
  warned.add(key)
  process.emitWarning(message, options)
}

function show(name: SettingName, path: string, value: unknown): string {
  const last = path.split(/[.[]/).at(-1) ?? ''
  if (value !== undefined && value !== null && (isSecretName(name) || isSecretName(last))) return MASK
  const text = inspect(censor(name, value), { depth: 1, breakLength: Infinity, maxStringLength: 100 })
  return text.length > 200 ? `${text.slice(0, 200)}…` : text
}

function invalid(name: SettingName, spelling: string, mismatch: Mismatch): CeleriacError {
  return new CeleriacError(
    'ERR_CELERIAC_INVALID_SETTING',
    `the setting ${spelling}${mismatch.path} is ${show(name, mismatch.path, mismatch.found)}; ` +
      `expected ${mismatch.expected}`,
    { cause: mismatch },
  )
}

/** The checked value of a setting; throws ERR_CELERIAC_INVALID_SETTING. `spelling` is how errors name it. */
function check(name: SettingName, value: unknown, spelling: string): unknown {
  try {
    return definitions[name].parser.parse(value)
  } catch (error) {
    throw error instanceof Mismatch ? invalid(name, spelling, error) : error
  }
}

/**
 * The value that some text stands for, on a command line or in the environment: `yes` is true where the setting is a
 * boolean, `a,b` an array where it is a list, JSON an object. Throws ERR_CELERIAC_INVALID_SETTING.
 */
export function settingFromText<K extends SettingName>(name: K, text: string): SettingValues[K] {
  return check(name, definitions[name].parser.fromText(text), celeryName(name)) as SettingValues[K]
}

/** Reads settings by their names in any spelling, checks all, and so changes nothing when one is wrong. */
function read(values: object): Layer {
  const layer: Layer = new Map()
  for (const [given, value] of Object.entries(values) as [string, unknown][]) {
    if (value === undefined) continue
    const { name, style } = requireSetting(given)
    layer.set(name, check(name, value, given))
    warnAbout(name, style, given)
  }
  return layer
}

function warnAbout(name: SettingName, style: NameStyle, given: string): void {
  if (style === 'old') {
    warnOnce(`old ${given}`, `the setting ${given} is called ${name} (${celeryName(name)}) now`, {
      type: 'DeprecationWarning',
      code: 'CELERIAC_OLD_SETTING',
    })
  }
  if (name === 'taskAcksOnFailureOrTimeout') {
    warnOnce(name, `${name} is deprecated: set taskAcksOnFailure and taskAcksOnTimeout`, {
      type: 'DeprecationWarning',
      code: 'CELERIAC_OLD_SETTING',
    })
  }
  const reason = notHonoured[name]
  if (reason !== undefined) {
    warnOnce(name, `the setting ${name} is accepted but changes nothing yet: ${reason}`, {
      type: 'CeleriacWarning',
      code: 'CELERIAC_NOT_HONOURED',
    })
  }
}

/** Celery takes an object of names old or new, but not of both, unless it gives the same setting by both names. */
function refuseMixedNames(values: object): void {
  const names = Object.keys(values).flatMap((given) => {
    const found = findSetting(given)
    return found === undefined ? [] : [{ given, ...found }]
  })
  const old = names.filter(({ style }) => style === 'old')
  const fresh = names.filter(({ style }) => style !== 'old')
  if (old.length === 0 || fresh.length === 0) return
  const [keep, rename] = old.length > fresh.length ? [old, fresh] : [fresh, old]
  const kept = new Set(keep.map(({ name }) => name))
  const renames = rename
    .filter(({ name }) => !kept.has(name))
    .map(({ given, name }) => `${given} -> ${keep === old ? oldNameOfSetting(name) : celeryName(name)}`)
  if (renames.length === 0) return
  throw new CeleriacError(
    'ERR_CELERIAC_INVALID_SETTING',
    `old and new names of settings are mixed; rename ${renames.toSorted().join(', ')}`,
  )
}

function ofNamespace(values: object, namespace: string): Record<string, unknown> {
  const prefix = namespace.replace(/_+$/, '') + '_'
  const entries = (Object.entries(values) as [string, unknown][]).filter(([name]) => name.startsWith(prefix))
  return Object.fromEntries(
    entries.map(([name, value]) => {
      const rest = name.slice(prefix.length)
      return [prefix === prefix.toUpperCase() ? rest.toLowerCase() : rest, value]
    }),
  )
}

/** Refuses a property that is no setting: it would be set and never read. Old names are taken. */
const guard: object = new Proxy(Object.create(null) as object, {
  get: (_, key, receiver) => Reflect.get(Object.prototype, key, receiver) as unknown,
  has: (_, key) => key in Object.prototype,
  set: (_, key, value, receiver) => {
    if (typeof key === 'symbol') return false
    ;(receiver as Settings).set(key, value)
    return true
  },
})

/** Every setting is a property, by its name in camelCase and as Celery spells it. */
// The static block of the class makes these properties.
// oxlint-disable-next-line typescript/no-unsafe-declaration-merging
export interface Settings extends SettingValues, SnakeCased<SettingValues> {}

/**
 * The configuration of an app. Of several values of a setting the first of these is taken: the environment (for the
 * URLs of broker and result backend), what was set on it, the configuration object, the defaults given by
 * `addDefaults`, and the built-in ones.
 */
export class Settings {
  readonly #environment: Environment
  readonly #changes: Layer
  #config: Layer = new Map()
  readonly #defaults: Layer = new Map()
  readonly #builtIn: Layer = new Map()
  #version = 0

  /** Throws ERR_CELERIAC_UNKNOWN_SETTING or ERR_CELERIAC_INVALID_SETTING. */
  constructor(values: SettingsInput = {}, environment: Environment = process.env) {
    this.#environment = environment
    this.#changes = read(values)
  }

  /** The value of a setting by its name in any spelling; throws ERR_CELERIAC_UNKNOWN_SETTING. */
  get(name: string): unknown {
    return this.#value(requireSetting(name).name)
  }

  /** Sets one by its name in any spelling; throws as the constructor does. */
  set(name: string, value: unknown): void {
    for (const [setting, checked] of read({ [name]: value })) this.#changes.set(setting, checked)
    this.#version += 1
  }

  /**
   * Sets several, by names in any spelling, those of before Celery 4 too. Nothing is set when one is wrong: that throws
   * ERR_CELERIAC_UNKNOWN_SETTING or ERR_CELERIAC_INVALID_SETTING. What is undefined is left as it is.
   */
  update(values: SettingsInput & OldSettingsInput): void {
    for (const [name, value] of read(values)) this.#changes.set(name, value)
    this.#version += 1
  }

  /**
   * Takes an object, or a module's exports, as the configuration, in place of an earlier one. What was set by `update`
   * or a property stays before it. Throws as `update`, and for a mix of old and new names.
   */
  configFromObject(values: object, options: ConfigOptions = {}): void {
    const { namespace } = options
    if (namespace === undefined || namespace === '') {
      const { default: exported, ...named } = values as { default?: unknown }
      const settings = isDictionary(exported) ? { ...exported, ...named } : named
      refuseMixedNames(settings)
      this.#config = read(settings)
    } else {
      this.#config = read(ofNamespace(values, namespace))
    }
    this.#version += 1
  }

  /** Sets defaults that come before the built-in ones and after everything else; throws as `update`. */
  addDefaults(values: SettingsInput): void {
    for (const [name, value] of read(values)) this.#defaults.set(name, value)
    this.#version += 1
  }

  /** Changes whenever a setting is set, so that what was worked out from settings can be kept until then. */
  get version(): number {
    return this.#version
  }

  /** What was set on it by hand: by the constructor, `update` and properties. A copy. */
  get changes(): Partial<SettingValues> {
    return Object.fromEntries(this.#changes) as Partial<SettingValues>
  }

  /** Whether anyone set it, by whatever way but the environment. Throws ERR_CELERIAC_UNKNOWN_SETTING. */
  isSet(name: string): boolean {
    const setting = requireSetting(name).name
    return this.#layers().some((layer) => layer.has(setting))
  }

  /** Whether it changes anything, rather than being accepted only. Throws ERR_CELERIAC_UNKNOWN_SETTING. */
  isHonoured(name: string): boolean {
    return notHonoured[requireSetting(name).name] === undefined
  }

  /** The settings that someone set, or all, with their values. */
  table(options: TableOptions = {}): Partial<Record<SettingName, unknown>> {
    const { withDefaults = false, censored = true } = options
    const names = withDefaults ? settingNames : settingNames.filter((name) => this.isSet(name))
    return Object.fromEntries(
      names.map((name) => {
        const value = this.#value(name)
        return [name, censored ? censor(name, value) : value]
      }),
    )
  }

  /** The same as lines of text, by the names that Celery uses: what `celeriac report` prints. */
  humanize(options: TableOptions = {}): string {
    return Object.entries(this.table(options))
      .map(([name, value]) => `${celeryName(name as SettingName)}: ${inspect(value, { breakLength: 80 })}`)
      .join('\n')
  }

  /** The name of a setting by its last words: `disable_rate_limits` is `workerDisableRateLimits`. */
  findOption(name: string, namespace = ''): SettingName | undefined {
    return findOption(name, namespace)
  }

  /** Its value; throws ERR_CELERIAC_UNKNOWN_SETTING. */
  findValueForKey(name: string, namespace = ''): unknown {
    return this.#value(findOption(name, namespace) ?? requireSetting(name).name)
  }

  /** The value of a setting by the parts of its name: `('worker', 'pool')`. Throws ERR_CELERIAC_UNKNOWN_SETTING. */
  getByParts(...parts: string[]): unknown {
    return this.get(parts.filter((part) => part !== '').join('_'))
  }

  /** Another configuration of the same values. */
  copy(): Settings {
    const copy = new Settings({}, this.#environment)
    for (const [name, value] of this.#changes) copy.#changes.set(name, value)
    for (const [name, value] of this.#defaults) copy.#defaults.set(name, value)
    copy.#config = new Map(this.#config)
    return copy
  }

  /** What `console.log` shows: the settings that someone set, without secrets. */
  [inspect.custom](): object {
    return this.table()
  }

  #layers(): readonly Layer[] {
    return [this.#changes, this.#config, this.#defaults]
  }

  /** Its value with the fall-backs that Celery's `Settings` has. */
  #value(name: SettingName): unknown {
    switch (name) {
      case 'brokerUrl':
        return this.#variable('CELERY_BROKER_URL') ?? this.#stored(name) ?? this.#stored('brokerHost')
      case 'brokerReadUrl':
        return this.#variable('CELERY_BROKER_READ_URL') ?? this.#stored(name) ?? this.brokerUrl
      case 'brokerWriteUrl':
        return this.#variable('CELERY_BROKER_WRITE_URL') ?? this.#stored(name) ?? this.brokerUrl
      case 'resultBackend':
        return this.#variable('CELERY_RESULT_BACKEND') ?? this.#stored(name)
      case 'taskDefaultExchange':
      case 'taskDefaultRoutingKey':
        return this.#stored(name) ?? this.#stored('taskDefaultQueue')
      default:
        return this.#stored(name)
    }
  }

  /** A variable of the environment; an empty one counts as none, as in Celery. */
  #variable(name: string): string | undefined {
    return this.#environment[name] || undefined
  }

  #stored(name: SettingName): unknown {
    for (const layer of this.#layers()) {
      if (layer.has(name)) return layer.get(name)
    }
    // A copy for each app: whoever adds to an object that is a default must not add to that of another app.
    if (!this.#builtIn.has(name)) this.#builtIn.set(name, structuredClone(defaultOf(name)))
    return this.#builtIn.get(name)
  }

  static {
    for (const name of settingNames) {
      const property: PropertyDescriptor = {
        configurable: false,
        enumerable: true,
        get(this: Settings) {
          return this.#value(name)
        },
        set(this: Settings, value: unknown) {
          this.set(name, value)
        },
      }
      Object.defineProperty(Settings.prototype, name, property)
      const celery: string = celeryName(name)
      if (celery !== name)
        Object.defineProperty(Settings.prototype, celery, { ...property, enumerable: false })
    }
    Object.setPrototypeOf(Settings.prototype, guard)
  }
}
