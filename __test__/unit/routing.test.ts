import { describe, expect, test } from 'vitest'

import { Settings } from '../../lib/config/conf.ts'
import type { SettingsInput } from '../../lib/config/settings.ts'
import type { RouterObject } from '../../lib/config/types.ts'
import { globPattern, Router } from '../../lib/routing.ts'

const router = (settings: SettingsInput = {}): Router => new Router(new Settings(settings, {}))

function go(settings: SettingsInput, name = 't', options: Record<string, unknown> = {}) {
  const { exchange, exchangeType, routingKey, queue } = router(settings).destination(name, [], {}, options)
  return { exchange, exchangeType, routingKey, queue: queue?.name ?? null }
}

const anonymous = (queue: string): object => ({
  exchange: '',
  exchangeType: 'direct',
  routingKey: queue,
  queue,
})

describe('queues', () => {
  test('the default queue has its own name as exchange and key', () => {
    expect(router().consumedQueues()).toEqual([
      {
        name: 'celery',
        exchange: { name: 'celery', kind: 'direct', durable: true, autoDelete: false },
        routingKey: 'celery',
        durable: true,
        exclusive: false,
        autoDelete: false,
        arguments: '',
      },
    ])
  })

  test('of those that no setting names, the 10,000 used last are remembered', () => {
    const one = router()
    const [configured, often, once] = ['celery', 'often', 'once'].map((name) => one.queue(name))
    for (let user = 0; user < 10_000; user++) {
      one.queue(`user-${user}`)
      one.queue('often')
    }
    expect(one.queue('celery')).toBe(configured)
    expect(one.queue('often')).toBe(often)
    expect(one.queue('once')).not.toBe(once)
    expect(one.queue('once')).toEqual(once)
  })

  test('the default settings apply to it', () => {
    const settings = {
      taskDefaultQueue: 'q',
      taskDefaultExchange: 'x',
      taskDefaultExchangeType: 'topic',
    } as const
    const [queue] = router({
      ...settings,
      taskDefaultRoutingKey: 'k',
      taskDefaultQueueType: 'quorum',
    }).consumedQueues()
    expect(queue).toMatchObject({
      name: 'q',
      exchange: { name: 'x', kind: 'topic' },
      routingKey: 'k',
      arguments: '{"x-queue-type":"quorum"}',
    })
  })

  test('of a list takes default exchange and key, of a mapping its own name as key', () => {
    const listed = router({ taskQueues: [{ name: 'a' }], taskDefaultRoutingKey: 'k' }).queue('a')
    expect(listed).toMatchObject({ exchange: { name: 'celery' }, routingKey: 'k' })
    const mapped = router({ taskQueues: { a: {} }, taskDefaultRoutingKey: 'k' }).queue('a')
    expect(mapped).toMatchObject({ exchange: { name: 'celery' }, routingKey: 'a' })
  })

  test('are what their definition says', () => {
    const queue = router({
      taskQueues: {
        a: {
          exchange: { name: 'x', type: 'topic', durable: false, auto_delete: true },
          binding_key: 'a.#',
          durable: false,
          exclusive: true,
          autoDelete: true,
          queueArguments: { 'x-mine': 1 },
          maxPriority: 5,
          messageTtl: 1.5,
          expires: 2,
          maxLength: 3,
        },
      },
    }).queue('a')
    expect(queue).toMatchObject({
      exchange: { name: 'x', kind: 'topic', durable: false, autoDelete: true },
      routingKey: 'a.#',
      durable: false,
      exclusive: true,
      autoDelete: true,
    })
    expect(JSON.parse(queue.arguments)).toEqual({
      'x-mine': 1,
      'x-max-priority': 5,
      'x-message-ttl': 1500,
      'x-expires': 2000,
      'x-max-length': 3,
    })
  })

  test('are found by their alias', () => {
    expect(router({ taskQueues: [{ name: 'long.name', alias: 'short' }] }).queue('short').name).toBe(
      'long.name',
    )
  })

  test('that are missing are made', () => {
    const made = router({
      taskCreateMissingQueueType: 'quorum',
      taskCreateMissingQueueExchangeType: 'topic',
    }).queue('new')
    expect(made).toMatchObject({
      exchange: { name: 'new', kind: 'topic' },
      routingKey: 'new',
      arguments: '{"x-queue-type":"quorum"}',
    })
  })

  test('that are missing are an error when that is off', () => {
    expect(() => router({ taskCreateMissingQueues: false }).queue('new')).toThrow(
      expect.objectContaining({
        code: 'ERR_CELERIAC_QUEUE_NOT_FOUND',
        message: expect.stringContaining("'new'") as string,
      }),
    )
  })

  test('have x-max-priority unless they say otherwise', () => {
    const one = router({
      taskQueueMaxPriority: 9,
      taskQueues: { a: {}, b: { queueArguments: { 'x-max-priority': 2 } } },
    })
    expect(one.queue('a').arguments).toBe('{"x-max-priority":9}')
    expect(one.queue('b').arguments).toBe('{"x-max-priority":2}')
  })

  test('that were made are not consumed', () => {
    const one = router({ taskQueues: { a: {} } })
    one.queue('made')
    expect(one.consumedQueues().map(({ name }) => name)).toEqual(['a'])
  })
})

describe('destinations', () => {
  test('a direct exchange is passed over', () => {
    expect(go({})).toEqual(anonymous('celery'))
    expect(go({}, 't', { queue: 'q' })).toEqual(anonymous('q'))
    expect(go({}, 't', { queue: 'q', routing_key: 'k' })).toEqual(anonymous('q'))
  })

  test('a direct exchange with a routing key is used', () => {
    expect(go({}, 't', { exchange: 'x', routing_key: 'k' })).toEqual({
      exchange: 'x',
      exchangeType: 'direct',
      routingKey: 'k',
      queue: 'celery',
    })
  })

  test('a topic exchange takes the key of the call, of the queue, or the default', () => {
    const settings = {
      taskQueues: { a: { exchange: 'x', exchangeType: 'topic', routingKey: 'a.#' } },
    } as const
    const topic = { exchange: 'x', exchangeType: 'topic', queue: 'a' }
    expect(go(settings, 't', { queue: 'a' })).toEqual({ ...topic, routingKey: 'a.#' })
    expect(go(settings, 't', { queue: 'a', routing_key: 'a.b' })).toEqual({ ...topic, routingKey: 'a.b' })
  })

  test('the delivery mode of an exchange is known', () => {
    const one = router({ taskQueues: { a: { exchange: { name: 'x', deliveryMode: 'transient' } } } })
    expect(one.destination('t', [], {}, { queue: 'a' }).deliveryMode).toBe(1)
    expect(one.destination('t', [], {}, {}).deliveryMode).toBeUndefined()
  })
})

describe('routes', () => {
  test('an exact name wins over a glob, and the first glob over the next', () => {
    const taskRoutes = { 'mail.*': 'emails', 'mail.urgent': { queue: 'fast' }, '*': 'rest' }
    expect(go({ taskRoutes }, 'mail.urgent')).toEqual(anonymous('fast'))
    expect(go({ taskRoutes }, 'mail.send')).toEqual(anonymous('emails'))
    expect(go({ taskRoutes }, 'other')).toEqual(anonymous('rest'))
  })

  test('regular expressions begin at the start of the name, each time', () => {
    const taskRoutes = new Map([[/mail\..*/g, 'emails']])
    const one = router({ taskRoutes })
    for (let turn = 0; turn < 2; turn++)
      expect(one.destination('mail.a', [], {}, {}).routingKey).toBe('emails')
    expect(one.destination('e.mail.a', [], {}, {}).routingKey).toBe('celery')
  })

  test('several routers are asked in turn', () => {
    const taskRoutes = [
      { a: 'one' },
      (name: string) => (name === 'b' ? 'two' : null),
      [['*', 'three']] as const,
    ]
    expect(go({ taskRoutes }, 'a')).toEqual(anonymous('one'))
    expect(go({ taskRoutes }, 'b')).toEqual(anonymous('two'))
    expect(go({ taskRoutes }, 'c')).toEqual(anonymous('three'))
  })

  test('a function sees the call, and an object with routeForTask is asked', () => {
    const seen: unknown[] = []
    const one = router({ taskRoutes: (...call: unknown[]) => void seen.push(call) })
    one.destination('t', [1], { a: 2 }, { priority: 3 }, 'task')
    expect(seen).toEqual([['t', [1], { a: 2 }, { priority: 3 }, 'task']])
    expect(one.dynamic).toBe(true)
    const object: RouterObject = { routeForTask: (name) => ({ queue: `${name}-queue` }) }
    expect(router({ taskRoutes: object }).destination('t', [], {}, {}).routingKey).toBe('t-queue')
  })

  test('what the call says wins over the route, null says nothing', () => {
    const taskRoutes = { t: { queue: 'q', priority: 3, routing_key: 'k' } }
    const one = router({ taskRoutes })
    expect(one.destination('t', [], {}, { queue: 'mine', priority: null })).toMatchObject({
      routingKey: 'mine',
      options: { priority: 3 },
    })
  })

  test('a route to an exchange alone declares no queue', () => {
    const taskRoutes = { t: { exchange: 'x', exchangeType: 'topic', routingKey: 'k' } } as const
    expect(go({ taskRoutes })).toEqual({ exchange: 'x', exchangeType: 'topic', routingKey: 'k', queue: null })
  })

  test('a route without queue and exchange leads to the default queue', () => {
    expect(go({ taskRoutes: { t: { priority: 3 } } })).toEqual(anonymous('celery'))
  })
})

test.each([
  ['a.*', 'a.b.c', true],
  ['a.*', 'ab', false],
  ['*.[ab]', 'x.a', true],
  ['*.[!ab]', 'x.a', false],
  ['*.[!ab]', 'x.c', true],
  ['?*', '', false],
  ['*+(x)', 'y+(x)', true],
  ['*[', 'a[', true],
])('glob %s on %s', (glob, name, matches) => {
  expect(globPattern(glob).test(name)).toBe(matches)
})
