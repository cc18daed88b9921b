import { describe, expect, it } from 'vitest'
import { Settings } from '../../../lib/config/conf.ts'
import { resolveBroker, resolveResultBackend } from '../../../lib/config/resolve.ts'
import type { SettingsInput } from '../../../lib/config/settings.ts'

const broker = (values: SettingsInput, environment = {}) =>
  resolveBroker(new Settings(values, environment), environment)
const backend = (values: SettingsInput) => resolveResultBackend(new Settings(values, {}))

describe('the broker', () => {
  it('that nobody names is a SQLite file, and so is its result backend', () => {
    expect(broker({})).toEqual({
      read: ['sqla+sqlite:///celeriac.db'],
      write: ['sqla+sqlite:///celeriac.db'],
      isDefault: true,
    })
    expect(backend({})).toBe('db+sqlite:///celeriac.db')
  })

  it('must be named where NODE_ENV is production', () => {
    expect(() => broker({}, { NODE_ENV: 'production' })).toThrow(
      expect.objectContaining({ code: 'ERR_CELERIAC_NO_BROKER' }),
    )
    expect(broker({ brokerUrl: 'redis://a' }, { NODE_ENV: 'production' }).isDefault).toBe(false)
    expect(broker({}, { NODE_ENV: 'production', CELERY_BROKER_URL: 'redis://a' }).read).toEqual(['redis://a'])
  })

  it('may be several, in an array or with semicolons', () => {
    expect(broker({ brokerUrl: ['redis://a', 'redis://b'] }).write).toEqual(['redis://a', 'redis://b'])
    expect(broker({ brokerUrl: 'redis://a;redis://b' }).read).toEqual(['redis://a', 'redis://b'])
  })

  it('may be another for reading and for writing', () => {
    expect(broker({ brokerReadUrl: 'redis://r', brokerWriteUrl: 'redis://w' })).toEqual({
      read: ['redis://r'],
      write: ['redis://w'],
      isDefault: false,
    })
  })

  it('is completed with user, password, port and virtual host where its URL leaves them out', () => {
    const parts = { brokerUser: 'u', brokerPassword: 'p@ss', brokerPort: 7000, brokerVhost: 'v/h' }
    expect(broker({ ...parts, brokerUrl: 'amqp://host' }).read).toEqual(['amqp://u:p%40ss@host:7000/v%2Fh'])
    expect(broker({ ...parts, brokerUrl: 'redis://me:x@host:1/2?a=b' }).read).toEqual([
      'redis://me:x@host:1/2?a=b',
    ])
    expect(broker({ ...parts, brokerHost: 'h', brokerTransport: 'redis' }).read).toEqual([
      'redis://u:p%40ss@h:7000/v%2Fh',
    ])
    expect(broker({ ...parts, brokerUrl: 'sqla+sqlite:///file.db' }).read).toEqual(['sqla+sqlite:///file.db'])
  })
})

describe('the result backend', () => {
  it('is none where a broker is named and it is not', () => {
    expect(backend({ brokerUrl: 'redis://a' })).toBeNull()
    expect(backend({ resultBackend: 'disabled://' })).toBeNull()
  })

  it('is completed with the settings of Redis and of the database', () => {
    expect(
      backend({ resultBackend: 'redis', redisHost: 'h', redisPort: 1, redisDb: 2, redisPassword: 'p' }),
    ).toBe('redis://:p@h:1/2')
    expect(backend({ resultBackend: 'redis://other:9/0', redisHost: 'h', redisPort: 1, redisDb: 2 })).toBe(
      'redis://other:9/0',
    )
    expect(backend({ resultBackend: 'redis' })).toBe('redis://localhost')
    expect(backend({ resultBackend: 'redis', redisHost: 'h', redisUsername: 'u', redisPassword: 'p@' })).toBe(
      'redis://u:p%40@h',
    )
    expect(backend({ resultBackend: 'database', databaseUrl: 'sqlite:///r.db' })).toBe('db+sqlite:///r.db')
    expect(backend({ resultBackend: 'db+sqlite:///r.db' })).toBe('db+sqlite:///r.db')
    expect(backend({ resultBackend: 'rpc://' })).toBe('rpc://')
  })

  it('in a database without a URL is refused', () => {
    expect(() => backend({ resultBackend: 'database' })).toThrow(
      expect.objectContaining({ code: 'ERR_CELERIAC_INVALID_SETTING' }),
    )
  })
})
