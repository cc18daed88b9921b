/** Holds our settings against those that Python's Celery declares; celery-defaults.py writes the data. */
import { readdirSync, readFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import { describe, expect, it } from 'vitest'
import { differingDefaults } from '../../../lib/config/differing-defaults.ts'
import { findSetting, oldNameOfSetting } from '../../../lib/config/lookup.ts'
import { withSnakeCaseKeys } from '../../../lib/config/names.ts'
import { notHonoured } from '../../../lib/config/not-honoured.ts'
import { isDictionary } from '../../../lib/config/parse.ts'
import {
  celeryName,
  defaultOf,
  definitions,
  isOwnSetting,
  settingNames,
} from '../../../lib/config/settings.ts'
import { Settings } from '../../../lib/config/conf.ts'

interface Declared {
  name: string
  type: string
  default: unknown
  old: string
}

const celery = JSON.parse(readFileSync(new URL('celery-defaults.json', import.meta.url), 'utf8')) as {
  declared: Declared[]
  undeclared: { name: string; default: unknown }[]
}

/** Python's types by our names of them. */
const TYPES: Record<string, string> = { tuple: 'list', str: 'string' }

/** Where the type that Celery declares is not what it takes. */
const DECLARED_OTHERWISE: Record<string, string> = {
  task_default_priority: 'int',
  cassandra_auth_kwargs: 'dict',
}

function requireName(name: string) {
  const found = findSetting(name)
  if (found === undefined) throw new Error(`no setting is called ${name}`)
  return found.name
}

function asCelery(value: unknown): unknown {
  if (value === Infinity) return 'Infinity'
  return isDictionary(value) ? withSnakeCaseKeys(value) : value
}

describe('settings of Celery', () => {
  it.each(celery.declared.map((each) => [each.name, each] as const))(
    '%s is known with the type and default of Celery',
    (_, declared) => {
      const name = requireName(declared.name)
      const { parser, default: fallback } = definitions[name]
      expect(celeryName(name)).toBe(declared.name)
      expect(parser.type).toBe(DECLARED_OTHERWISE[declared.name] ?? TYPES[declared.type] ?? declared.type)
      expect(asCelery(fallback)).toEqual(declared.default)
      expect(parser.parse(fallback)).toEqual(asPassedOn(name, fallback))
      expect(() => parser.parse(Symbol('wrong'))).toThrow('expected')
      expect(oldNameOfSetting(name)).toBe(declared.old)
      expect(findSetting(declared.old)?.name).toBe(name)
    },
  )

  it.each(celery.undeclared.map((each) => [each.name, each] as const))(
    '%s is known, though Celery does not declare it, with its default',
    (_, undeclared) => {
      const name = requireName(undeclared.name)
      expect(definitions[name].default).toEqual(undeclared.default)
      expect(() => definitions[name].parser.parse(Symbol('wrong'))).toThrow('expected')
    },
  )

  it('are all settings but our own', () => {
    const known = new Set([...celery.declared, ...celery.undeclared].map(({ name }) => name))
    const others = settingNames.filter((name) => !known.has(celeryName(name)))
    expect(others.filter((name) => !isOwnSetting(name))).toEqual([])
    expect(others.toSorted()).toEqual([
      'leaseMaxHold',
      'maxDeliveries',
      'publishTimeout',
      'workerLease',
      'workerUnknownTaskRequeues',
    ])
  })
})

/** Options of transports keep Celery's spelling; other objects come out in camelCase, as their defaults are. */
function asPassedOn(name: string, value: unknown): unknown {
  return name.endsWith('TransportOptions') ? asCelery(value) : value
}

describe('defaults that differ from those of Celery', () => {
  it('are these and no others', () => {
    const conf = new Settings({}, {})
    const derived = new Set(['taskDefaultExchange', 'taskDefaultRoutingKey'])
    const differing = settingNames.filter(
      (name) => !derived.has(name) && !isDeepStrictEqual(conf.get(name), definitions[name].default),
    )
    expect(differing.toSorted()).toEqual(Object.keys(differingDefaults).toSorted())
    expect(conf.taskAcksLate).toBe(true)
    expect(conf.taskRejectOnWorkerLost).toBe(true)
    expect(conf.workerPool).toBe('async')
  })

  it.each(Object.entries(differingDefaults))(
    '%s has a reason and a value that is allowed',
    (name, { value, reason }) => {
      const setting = requireName(name)
      expect(reason).toMatch(/\.$/)
      expect(definitions[setting].parser.parse(value)).toBe(value)
      expect(defaultOf(setting)).toBe(value)
    },
  )
})

describe('the list of settings that are not honoured', () => {
  it('has none of those that the main job needs', () => {
    const needed: (typeof settingNames)[number][] = [
      'acceptContent',
      'brokerUrl',
      'brokerTransportOptions',
      'brokerConnectionRetry',
      'imports',
      'include',
      'resultBackend',
      'resultExpires',
      'resultExtended',
      'taskAcksLate',
      'taskDefaultQueue',
      'taskIgnoreResult',
      'taskPublishRetryPolicy',
      'taskQueues',
      'taskRoutes',
      'taskSoftTimeLimit',
      'taskTrackStarted',
      'workerConcurrency',
      'workerLogFormat',
      'workerPool',
      'workerPrefetchMultiplier',
    ]
    expect(needed.filter((name) => notHonoured[name] !== undefined)).toEqual([])
    expect(settingNames.filter((name) => isOwnSetting(name) && notHonoured[name] !== undefined)).toEqual([])
  })

  it('has every setting that nothing reads', () => {
    const lib = new URL('../../../lib/', import.meta.url)
    const sources = readdirSync(lib, { recursive: true, encoding: 'utf8' })
      .map((path) => path.replaceAll('\\', '/'))
      .filter(
        (path) =>
          path.endsWith('.ts') &&
          (!path.startsWith('config/') || /\/(conf|resolve|broker-options)\.ts$/.test(path)),
      )
      .map((path) => readFileSync(new URL(path, lib), 'utf8'))
      .join('\n')
      .replace(/\/\*[^]*?\*\//g, '')
    const words = new Set(sources.match(/\w+/g))
    const unread = settingNames.filter((name) => !words.has(name) && !words.has(celeryName(name)))
    expect(unread.filter((name) => notHonoured[name] === undefined)).toEqual([])
  })
})
