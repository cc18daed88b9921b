import { inspect } from 'node:util'
import { describe, expect, expectTypeOf, it, vi } from 'vitest'
import { Settings } from '../../../lib/config/conf.ts'
import type { SettingsInput } from '../../../lib/config/settings.ts'
import { CeleriacError } from '../../../lib/errors.ts'

const settings = (values: SettingsInput = {}, environment: Record<string, string> = {}) =>
  new Settings(values, environment)

function thrown(work: () => unknown): CeleriacError {
  try {
    work()
  } catch (error) {
    if (error instanceof CeleriacError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

describe('a setting', () => {
  it('is read and written by both spellings', () => {
    const conf = settings()
    conf.taskAcksLate = false
    expect(conf.task_acks_late).toBe(false)
    conf.task_acks_late = true
    expect(conf.taskAcksLate).toBe(true)
    expectTypeOf(conf.task_acks_late).toEqualTypeOf<boolean>()
    expectTypeOf(conf.result_backend_max_sleep_between_retries_ms).toEqualTypeOf<number>()
    // @ts-expect-error a string is no boolean
    expect(() => (conf.task_acks_late = 'yes')).toThrow(CeleriacError)
  })

  it('is given to the constructor in both spellings, typed', () => {
    const conf = settings({ taskDefaultQueue: 'a', worker_prefetch_multiplier: 7, brokerUrl: undefined })
    expect(conf.taskDefaultQueue).toBe('a')
    expect(conf.workerPrefetchMultiplier).toBe(7)
    // @ts-expect-error no setting has this name
    expect(() => settings({ taskAckLate: true })).toThrow(CeleriacError)
    // @ts-expect-error no setting has this name
    expect(() => conf.update({ task_ack_late: true })).toThrow(CeleriacError)
    // @ts-expect-error a string is no number
    expect(() => settings({ worker_prefetch_multiplier: '7' })).toThrow(CeleriacError)
  })

  it('takes the names that Celery had before version 4', () => {
    const conf = settings()
    conf.update({ CELERYD_PREFETCH_MULTIPLIER: 2, CELERY_ROUTES: { a: 'b' }, BROKER_POOL_LIMIT: null })
    expect(conf.workerPrefetchMultiplier).toBe(2)
    expect(conf.taskRoutes).toEqual({ a: 'b' })
    expect(conf.brokerPoolLimit).toBeNull()
  })

  it('of the wrong type is refused by name, value and what is expected, and nothing is changed', () => {
    const conf = settings()
    const error = thrown(() =>
      conf.update({ task_default_queue: 'other', worker_prefetch_multiplier: 'many' as never }),
    )
    expect(error.code).toBe('ERR_CELERIAC_INVALID_SETTING')
    expect(error.message).toBe(
      "the setting worker_prefetch_multiplier is 'many'; expected a whole number of 0 or more",
    )
    expect(conf.taskDefaultQueue).toBe('celery')
  })

  it.each([
    ['workerLease', [0, 0.01, -1, 86_401, 1e12, Number.NaN], 'from 1 to 86400', [1, 86_400]],
    ['leaseMaxHold', [0, 0.5, 1e12, Infinity], 'from 1 to 31536000, or null', [1, 31_536_000, null]],
  ] as const)('%s that is out of its range is refused with the range', (name, wrong, range, right) => {
    for (const value of wrong) {
      const error = thrown(() => settings({ [name]: value }))
      expect(error.code).toBe('ERR_CELERIAC_INVALID_SETTING')
      expect(error.message).toContain(`expected a number of seconds ${range}`)
    }
    for (const value of right) expect(settings({ [name]: value })[name]).toBe(value)
  })

  it('that is wrong deep inside says where', () => {
    const error = thrown(() => settings({ taskQueues: { fast: { durable: 'no' as never } } }))
    expect(error.message).toBe("the setting taskQueues.fast.durable is 'no'; expected true or false")
  })

  it('that is secret is not shown when it is refused', () => {
    const error = thrown(() => settings().set('redis_password', 12_345))
    expect(error.message).toContain('********')
    expect(error.message).not.toContain('12345')
    expect(thrown(() => settings().set('brokerPoolLimit', 'redis://:pw@host')).message).not.toContain('pw')
  })

  it.each([
    ['taskAckLate', 'taskAcksLate'],
    ['task_ack_late', 'task_acks_late'],
    ['CELERYD_PREFETCH_MULTIPLER', 'worker_prefetch_multiplier'],
    ['lease', 'workerLease'],
    ['leaseTimeout', 'workerLease'],
    ['lease_timeout', 'worker_lease'],
    ['maxHold', 'leaseMaxHold'],
  ])('called %s is refused with the nearest one, %s', (given, nearest) => {
    const error = thrown(() => settings().set(given, true))
    expect(error.code).toBe('ERR_CELERIAC_UNKNOWN_SETTING')
    expect(error.message).toBe(`there is no setting "${given}"; the nearest is "${nearest}"`)
  })

  it('that does not exist cannot be assigned as a property', () => {
    const conf: Record<string, unknown> = settings() as never
    expect(thrown(() => (conf['taskAckLate'] = true)).code).toBe('ERR_CELERIAC_UNKNOWN_SETTING')
    expect(conf['taskAckLate']).toBeUndefined()
    conf['CELERY_ACKS_LATE'] = false
    expect(conf['taskAcksLate']).toBe(false)
  })

  it('that is an object by default is not shared between apps', () => {
    const first = settings()
    const second = settings()
    first.brokerTransportOptions.visibility_timeout = 10
    expect(first.brokerTransportOptions.visibility_timeout).toBe(10)
    expect(second.brokerTransportOptions).toEqual({})
  })
})

describe('the order of sources', () => {
  it('is: set by hand, configuration object, added defaults, built-in', () => {
    const conf = settings()
    expect(conf.taskDefaultQueue).toBe('celery')
    conf.addDefaults({ taskDefaultQueue: 'added', taskDefaultPriority: 1 })
    expect(conf.taskDefaultQueue).toBe('added')
    conf.configFromObject({ task_default_queue: 'object' })
    expect(conf.taskDefaultQueue).toBe('object')
    conf.update({ taskDefaultQueue: 'hand' })
    expect(conf.taskDefaultQueue).toBe('hand')
    conf.configFromObject({ task_default_queue: 'other object' })
    expect(conf.taskDefaultQueue).toBe('hand')
    expect(conf.taskDefaultPriority).toBe(1)
    expect(conf.changes).toEqual({ taskDefaultQueue: 'hand' })
  })

  it('puts the environment before everything for the URLs', () => {
    const values = {
      brokerUrl: 'redis://b',
      brokerReadUrl: 'redis://r',
      brokerWriteUrl: 'redis://w',
      resultBackend: 'redis://s',
    }
    expect(settings(values)).toMatchObject(values)
    const environment = {
      CELERY_BROKER_URL: 'redis://B',
      CELERY_BROKER_READ_URL: 'redis://R',
      CELERY_BROKER_WRITE_URL: 'redis://W',
      CELERY_RESULT_BACKEND: 'redis://S',
    }
    const conf = settings(values, environment)
    expect(conf.brokerUrl).toBe('redis://B')
    expect(conf.brokerReadUrl).toBe('redis://R')
    expect(conf.brokerWriteUrl).toBe('redis://W')
    expect(conf.resultBackend).toBe('redis://S')
  })

  it('leaves an empty variable of the environment aside', () => {
    expect(settings({ brokerUrl: 'redis://b' }, { CELERY_BROKER_URL: '' }).brokerUrl).toBe('redis://b')
  })

  it('takes CELERY_BROKER_URL for reading and writing where nothing more is said', () => {
    const conf = settings({}, { CELERY_BROKER_URL: 'redis://B' })
    expect([conf.brokerReadUrl, conf.broker_write_url]).toEqual(['redis://B', 'redis://B'])
  })

  it('takes the default queue as exchange and routing key where none is set', () => {
    const conf = settings({ taskDefaultQueue: 'q' })
    expect([conf.taskDefaultExchange, conf.task_default_routing_key]).toEqual(['q', 'q'])
    conf.taskDefaultExchange = 'x'
    expect(conf.taskDefaultExchange).toBe('x')
  })
})

describe('configFromObject', () => {
  it('reads only what has the namespace, in capitals when that is', () => {
    const conf = settings()
    conf.configFromObject(
      { CELERY_TASK_DEFAULT_QUEUE: 'q', CELERY_RESULT_EXPIRES: 5, DEBUG: true, task_default_queue: 'no' },
      { namespace: 'CELERY' },
    )
    expect(conf.taskDefaultQueue).toBe('q')
    expect(conf.resultExpires).toBe(5)
    conf.configFromObject(
      { celery_task_default_queue: 'l', CELERY_RESULT_EXPIRES: 7 },
      { namespace: 'celery_' },
    )
    expect(conf.taskDefaultQueue).toBe('l')
    expect(conf.resultExpires).toBe(86_400)
  })

  it('refuses an unknown name in the namespace', () => {
    const error = thrown(() =>
      settings().configFromObject({ CELERY_TASK_ACK_LATE: 1 }, { namespace: 'CELERY' }),
    )
    expect(error.message).toBe('there is no setting "task_ack_late"; the nearest is "task_acks_late"')
  })

  it('takes the exports of a module, and what it exports by default', () => {
    const conf = settings()
    conf.configFromObject({ default: { taskDefaultQueue: 'd' }, resultExpires: null })
    expect([conf.taskDefaultQueue, conf.resultExpires]).toEqual(['d', null])
  })

  it('refuses a mix of old and new names with the renames, the majority deciding', () => {
    const error = thrown(() =>
      settings().configFromObject({ task_serializer: 'json', result_expires: 1, CELERYD_CONCURRENCY: 2 }),
    )
    expect(error.code).toBe('ERR_CELERIAC_INVALID_SETTING')
    expect(error.message).toContain('CELERYD_CONCURRENCY -> worker_concurrency')
    const other = thrown(() =>
      settings().configFromObject({ task_acks_late: true, BROKER_URL: 'memory://', CELERYD_CONCURRENCY: 2 }),
    )
    expect(other.message).toContain('task_acks_late -> CELERY_ACKS_LATE')
  })

  it('takes a mix that gives the same setting by both names', () => {
    const conf = settings()
    conf.configFromObject({ result_expires: 1, CELERY_TASK_RESULT_EXPIRES: 1, imports: ['a'] })
    expect(conf.resultExpires).toBe(1)
  })
})

describe('the report', () => {
  const conf = settings({
    brokerUrl: 'redis://user:hunter2@host/0',
    resultBackend: 'redis://:hunter2@host/1',
    redisPassword: 'hunter2',
    mongodbBackendSettings: { host: 'h', password: 'hunter2' },
    taskDefaultQueue: 'q',
  })

  it('has what was set, by the names of Celery, without secrets', () => {
    expect(conf.humanize().split('\n').toSorted()).toEqual([
      "broker_url: 'redis://user:********@host/0'",
      "mongodb_backend_settings: { host: 'h', password: '********' }",
      "redis_password: '********'",
      "result_backend: 'redis://:********@host/1'",
      "task_default_queue: 'q'",
    ])
    expect(inspect(conf)).not.toContain('hunter2')
    expect(inspect(conf)).toContain('taskDefaultQueue')
  })

  it('has the defaults and the secrets where they are asked for', () => {
    const table = conf.table({ withDefaults: true, censored: false })
    expect(table.redisPassword).toBe('hunter2')
    expect(table.workerPrefetchMultiplier).toBe(4)
    expect(conf.table()).not.toHaveProperty('workerPrefetchMultiplier')
  })
})

describe('looking settings up', () => {
  const conf = settings({ workerDisableRateLimits: true })

  it('finds one by the last words of its name, the preferred namespace first', () => {
    expect(conf.findOption('disable_rate_limits')).toBe('workerDisableRateLimits')
    expect(conf.findOption('serializer', 'result')).toBe('resultSerializer')
    expect(conf.findOption('nothing_like_it')).toBeUndefined()
    expect(conf.findValueForKey('disable_rate_limits', 'celery')).toBe(true)
    expect(conf.getByParts('worker', 'disable_rate_limits')).toBe(true)
  })

  it('tells what was set, and by copy changes nothing in the original', () => {
    expect(conf.isSet('worker_disable_rate_limits')).toBe(true)
    expect(conf.isSet('workerPool')).toBe(false)
    const copy = conf.copy()
    copy.workerDisableRateLimits = false
    expect(conf.workerDisableRateLimits).toBe(true)
  })
})

describe('warnings', () => {
  it('name a setting that is not honoured yet, once', () => {
    const emit = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    const conf = settings({ beatSyncEvery: 3 })
    conf.beat_sync_every = 4
    expect(conf.isHonoured('beat_sync_every')).toBe(false)
    expect(conf.isHonoured('taskAcksLate')).toBe(true)
    const calls = emit.mock.calls.filter(([message]) => String(message).includes('beatSyncEvery'))
    expect(calls).toHaveLength(1)
    expect(calls[0]?.[1]).toMatchObject({ code: 'CELERIAC_NOT_HONOURED' })
    emit.mockRestore()
  })

  it('name an old name and its new one, once', () => {
    const emit = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    const conf = settings()
    conf.update({ CELERY_TRACK_STARTED: true })
    conf.update({ CELERY_TRACK_STARTED: false, task_acks_on_failure_or_timeout: false })
    expect(emit.mock.calls.map(([message]) => message)).toEqual([
      'the setting CELERY_TRACK_STARTED is called taskTrackStarted (task_track_started) now',
      'taskAcksOnFailureOrTimeout is deprecated: set taskAcksOnFailure and taskAcksOnTimeout',
    ])
    emit.mockRestore()
  })
})
