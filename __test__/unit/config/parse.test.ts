import { describe, expect, it } from 'vitest'
import { settingFromText, Settings } from '../../../lib/config/conf.ts'
import { camelCase, snakeCase } from '../../../lib/config/names.ts'
import { settingNames } from '../../../lib/config/settings.ts'
import type { SettingName } from '../../../lib/config/settings.ts'

const settings = () => new Settings({}, {})

describe('names', () => {
  it('turn from one spelling into the other and back, for every setting', () => {
    expect(settingNames.map((name) => camelCase(snakeCase(name)))).toEqual(settingNames)
    expect(snakeCase('s3BasePath')).toBe('s3_base_path')
  })
})

describe('a value', () => {
  const wrong: [SettingName, unknown][] = [
    ['taskAcksLate', 'true'],
    ['taskAcksLate', 1],
    ['taskAcksLate', null],
    ['workerPrefetchMultiplier', '4'],
    ['workerPrefetchMultiplier', 1.5],
    ['workerPrefetchMultiplier', -1],
    ['workerPrefetchMultiplier', null],
    ['resultExpires', -1],
    ['resultExpires', NaN],
    ['resultExpires', Infinity],
    ['resultExpires', { days: 1 }],
    ['taskProtocol', 3],
    ['taskDefaultDeliveryMode', 3],
    ['taskDefaultExchangeType', 'ring'],
    ['timezone', 'Mars/Olympus'],
    ['acceptContent', ['json', 5]],
    ['taskDefaultQueue', ''],
    ['brokerUrl', []],
    ['brokerUrl', 5],
    ['workerConcurrency', 'many'],
    ['brokerTransportOptions', ['a']],
    ['brokerTransportOptions', { visibilityTimeout: '1h' }],
    ['taskPublishRetryPolicy', { retry_errors: [] }],
    ['taskPublishRetryPolicy', { maxRetries: 'all' }],
    ['taskQueues', 'a,b'],
    ['taskQueues', [{ routingKey: 'no name' }]],
    ['taskQueues', { a: { exchange: { type: 'direct' } } }],
    ['taskQueues', { a: { unknown: 1 } }],
    ['taskRoutes', 'queue'],
    ['taskRoutes', { a: 5 }],
    ['taskRoutes', { a: { priority: 'high' } }],
    ['taskRoutes', [['a']]],
    ['taskRoutes', [[5, 'queue']]],
    ['taskAnnotations', { a: 5 }],
    ['beatSchedule', { a: { task: 't' } }],
    ['beatSchedule', { a: { schedule: 5 } }],
    ['overrideBackends', { a: 5 }],
    ['maxDeliveries', 0],
  ]
  it.each(wrong)('of %s that is %j is refused', (name, value) => {
    expect(() => settings().set(name, value)).toThrow(
      expect.objectContaining({
        code: 'ERR_CELERIAC_INVALID_SETTING',
        message: expect.stringContaining(name),
      }),
    )
  })

  const right: [SettingName, unknown, unknown?][] = [
    ['resultExpires', null],
    ['resultExpires', 0.5],
    ['resultBackendMaxRetries', Infinity],
    ['brokerConnectionMaxRetries', null],
    ['imports', 'one.js', ['one.js']],
    ['acceptContent', ['json', 'application/x-yaml']],
    ['brokerUrl', ['redis://a', 'redis://b']],
    ['timezone', 'Europe/Berlin'],
    ['workerConcurrency', 'auto'],
    [
      'brokerTransportOptions',
      { visibilityTimeout: 5, own_option: { a: 1 } },
      { visibility_timeout: 5, own_option: { a: 1 } },
    ],
    ['brokerUseSsl', true],
    ['brokerUseSsl', { sslCaCerts: 'ca.pem' }, { ssl_ca_certs: 'ca.pem' }],
    [
      'taskPublishRetryPolicy',
      { max_retries: null, interval_start: 0 },
      { maxRetries: null, intervalStart: 0 },
    ],
    [
      'taskQueues',
      { a: { routing_key: 'k', exchange: { name: 'x', autoDelete: true } } },
      { a: { routingKey: 'k', exchange: { name: 'x', autoDelete: true } } },
    ],
    [
      'taskQueues',
      [{ name: 'a', queue_arguments: { 'x-max-priority': 3 } }],
      [{ name: 'a', queueArguments: { 'x-max-priority': 3 } }],
    ],
    [
      'taskRoutes',
      { 'mail.*': 'emails', a: { routing_key: 'k', immediate: true } },
      { 'mail.*': 'emails', a: { routingKey: 'k', immediate: true } },
    ],
    [
      'taskRoutes',
      [
        [/^a/, 'q'],
        ['b', { queue: 'q' }],
      ],
    ],
    [
      'taskRoutes',
      [
        [
          ['b', 'q'],
          ['c', 'r'],
        ],
        { d: 's' },
      ],
    ],
    ['taskRoutes', new Map<unknown, unknown>([[/^a/, { queue: 'q' }]])],
    ['taskAnnotations', { '*': { rate_limit: '1/s' } }, { '*': { rateLimit: '1/s' } }],
    ['beatSchedule', { a: { task: 't', schedule: 5, args: [1] } }],
  ]
  it.each(right)('of %s that is %j is taken', (name, value, expected = value) => {
    const conf = settings()
    conf.set(name, value)
    expect(conf.get(name)).toEqual(expected)
  })

  it('that is a function decides about routes', () => {
    const conf = settings()
    const route = (name: string) => (name === 'a' ? 'q' : undefined)
    conf.taskRoutes = route
    expect(conf.task_routes).toBe(route)
    conf.taskRoutes = [route, { b: 'r' }]
    expect(conf.task_routes).toEqual([route, { b: 'r' }])
  })

  it('is copied, so that a later change of the object it came from does nothing', () => {
    const conf = settings()
    const queues = ['a']
    conf.imports = queues
    queues.push('b')
    expect(conf.imports).toEqual(['a'])
  })
})

describe('text', () => {
  const texts: [SettingName, string, unknown][] = [
    ['taskAcksLate', 'yes', true],
    ['taskAcksLate', 'OFF', false],
    ['workerPrefetchMultiplier', '8', 8],
    ['resultExpires', '1.5', 1.5],
    ['resultExpires', 'none', null],
    ['resultBackendMaxRetries', 'inf', Infinity],
    ['acceptContent', 'json, yaml', ['json', 'yaml']],
    ['taskProtocol', '1', 1],
    ['workerConcurrency', 'auto', 'auto'],
    ['workerConcurrency', '3', 3],
    ['taskRoutes', '{"a":"q"}', { a: 'q' }],
    ['brokerUseSsl', 'true', true],
    ['taskDefaultQueue', '7', '7'],
  ]
  it.each(texts)('for %s, %j, becomes %j', (name, text, expected) => {
    expect(settingFromText(name, text)).toEqual(expected)
  })

  it.each([
    ['taskAcksLate', 'perhaps'],
    ['workerPrefetchMultiplier', 'many'],
    ['taskRoutes', '{'],
  ] as [SettingName, string][])('for %s, %j, is refused', (name, text) => {
    expect(() => settingFromText(name, text)).toThrow(
      expect.objectContaining({ code: 'ERR_CELERIAC_INVALID_SETTING' }),
    )
  })
})
