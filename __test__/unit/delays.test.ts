import { once } from 'node:events'

import { beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery, type CeleryOptions } from '../../lib/app.ts'
import { Settings } from '../../lib/config/conf.ts'
import { Request } from '../../lib/request.ts'
import { Router } from '../../lib/routing.ts'
import { TaskContext } from '../../lib/task-context.ts'
import { FakeBroker } from './support/fake-native.ts'

vi.mock(import('../../lib/native.ts'), async (original) => {
  const fake = await import('./support/fake-native.ts')
  return { ...(await original()), openNativeBroker: (...args) => fake.FakeBroker.open(...args) }
})

beforeEach(() => {
  FakeBroker.opened = []
})

const quorum = { taskDefaultQueueType: 'quorum', taskDefaultExchangeType: 'topic' } as const

const quorumQueue = { queueArguments: { 'x-queue-type': 'quorum' } }

/** What the core is told of a call: the delay that it is to add, and what it declares before. */
async function told(settings: CeleryOptions, options: Parameters<Celery['sendTask']>[2]) {
  const app = new Celery({ broker: 'amqp://host', ...settings })
  await app.sendTask('t', [], options)
  const { route, options: fields } = FakeBroker.last.sent[0] as (typeof FakeBroker.last.sent)[number]
  await app.close()
  return { delay: fields?.['delay'], delays: route.queue?.delays, eta: fields?.['eta'] }
}

describe('who has RabbitMQ hold its messages', () => {
  const delays = (settings: CeleryOptions, isAmqp = true) =>
    new Router(new Settings(settings, {}), () => isAmqp).delays

  test('an app with a quorum queue, in queues of the type that is set', () => {
    expect(delays(quorum)).toBe('quorum')
    expect(delays({ ...quorum, brokerNativeDelayedDeliveryQueueType: 'classic' })).toBe('classic')
    expect(delays({ taskCreateMissingQueueType: 'quorum' })).toBe('quorum')
    const queueArguments = { 'x-queue-type': 'quorum' }
    expect(delays({ taskQueues: [{ name: 'a' }, { name: 'b', queueArguments }] })).toBe('quorum')
  })

  test('nobody else', () => {
    expect(delays({})).toBeUndefined()
    expect(delays(quorum, false)).toBeUndefined()
    expect(delays({ taskCreateMissingQueueType: 'quorum', taskCreateMissingQueues: false })).toBeUndefined()
  })

  test('its workers declare what leads to their queues', () => {
    const router = new Router(new Settings(quorum, {}), () => true)
    expect(router.consumedQueues()).toEqual([expect.objectContaining({ name: 'celery', delays: 'quorum' })])
    expect(router.queue('other').delays).toBe('quorum')
  })
})

describe('a call', () => {
  test('with a countdown is held for its whole seconds, and says when it is due', async () => {
    const seen = await told(quorum, { countdown: 7.9 })
    expect(seen).toEqual({ delay: 7, delays: 'quorum', eta: expect.any(String) as string })
  })

  test('with an eta is held for the whole seconds until then', async () => {
    const seen = await told(quorum, { eta: new Date(Date.now() + 90_500) })
    expect(seen).toMatchObject({ delay: 90, delays: 'quorum' })
  })

  test('of less than a second, of the past or of no time is not', async () => {
    for (const options of [{ countdown: 0.99 }, { countdown: -3 }, { eta: new Date(0) }, {}])
      expect(await told(quorum, options)).toMatchObject({ delay: undefined, delays: undefined })
  })

  test('is held as long as can be counted', async () => {
    expect((await told(quorum, { countdown: 3e8 })).delay).toBe(2 ** 28 - 1)
  })

  test('on another broker is left to the workers', async () => {
    expect(await told({ ...quorum, broker: 'redis://host' }, { countdown: 7 })).toMatchObject({
      delay: undefined,
      delays: undefined,
    })
  })

  test('is left to the workers where the queue that is declared with it does not take it: it would be dropped when it is due', async () => {
    const taskQueues: CeleryOptions['taskQueues'] = [
      { name: 'mail', exchange: 'jobs', exchangeType: 'topic', routingKey: 'mail.#', ...quorumQueue },
      { name: 'all', exchange: 'everybody', exchangeType: 'fanout', routingKey: 'all', ...quorumQueue },
    ]
    const seen = async (options: object) =>
      (await told({ ...quorum, taskQueues, taskDefaultQueue: 'mail' }, { countdown: 7, ...options })).delay
    expect(await seen({ queue: 'mail' })).toBe(7)
    expect(await seen({ queue: 'mail', routingKey: 'mail' })).toBe(7)
    expect(await seen({ queue: 'mail', routingKey: 'mail.to.me' })).toBe(7)
    expect(await seen({ queue: 'all' })).toBe(7)
    expect(await seen({ queue: 'mail', exchangeType: 'direct', exchange: 'jobs', routingKey: 'mail' })).toBe(
      7,
    )
    // To a fanout exchange, too, only the queue's own key leads from there.
    expect(await seen({ queue: 'all', routingKey: 'anything' })).toBeUndefined()
    expect(await seen({ queue: 'mail', routingKey: 'post' })).toBeUndefined()
    expect(await seen({ queue: 'mail', routingKey: 'a.mail' })).toBeUndefined()
    expect(await seen({ exchange: 'elsewhere', routingKey: 'mail' })).toBeUndefined()
  })

  test('to a direct exchange is left to the workers, with a warning, whatever type the call gives it', async () => {
    const key = { exchange: 'celery', routingKey: 'celery' }
    for (const options of [{}, { exchangeType: 'topic' }, { exchangeType: 'fanout' }, key]) {
      const warning = once(process, 'warning')
      const seen = await told({ taskDefaultQueueType: 'quorum' }, { countdown: 7, ...options })
      expect(seen).toMatchObject({ delay: undefined, delays: undefined })
      expect((await warning)[0]).toMatchObject({ code: 'CELERIAC_DIRECT_DELAY' })
    }
  })

  test('of a task with another type than that of its exchange is left to the workers, too', async () => {
    const app = new Celery({ broker: 'amqp://host', taskDefaultQueueType: 'quorum' })
    const warning = once(process, 'warning')
    await app.task({ name: 't', exchangeType: 'topic' }, () => 1).applyAsync([], { countdown: 7 })
    expect(FakeBroker.last.sent[0]?.options?.['delay']).toBeUndefined()
    expect((await warning)[0]).toMatchObject({ code: 'CELERIAC_DIRECT_DELAY' })
    await app.close()
  })
})

describe('a task that was held is retried', () => {
  /** Where a task goes again that came to a queue with this routing key after it was held. */
  const retried = (settings: CeleryOptions, queue: string, key: string, exchange = 'celery_delayed_0') => {
    const app = new Celery({ broker: 'amqp://host', ...quorum, ...settings })
    const task = app.task({ name: 't' }, () => 1)
    const wired = { queue, delivery_info: { exchange, routing_key: key } }
    const context = new TaskContext(app, task, new Request('id', 't', [], {}, wired))
    app.prepareRetry(context, [], {}, {})
    const { exchange: name, routingKey } = FakeBroker.last.routes.at(-1) as (typeof FakeBroker.last.routes)[0]
    return [name, routingKey]
  }
  const held = `${'0.'.repeat(27)}1.`
  const taskQueues: CeleryOptions['taskQueues'] = [
    { name: 'mail', exchange: 'jobs', exchangeType: 'topic', routingKey: 'mail.*', ...quorumQueue },
    { name: 'all', exchange: 'everybody', exchangeType: 'fanout', routingKey: 'all', ...quorumQueue },
    { name: 'plain', exchange: 'plainly', exchangeType: 'direct', routingKey: 'plain' },
  ]

  test('in its own queue, not where it was held', () => {
    for (const exchange of ['celery_delayed_0', 'celery_delayed_27', 'celery_delayed_delivery'])
      expect(retried({}, 'celery', `${held}celery`, exchange)).toEqual(['celery', 'celery'])
  })

  test('with the routing key that it had, where that leads to its queue', () => {
    expect(retried({ taskQueues }, 'mail', `${held}mail.me`)).toEqual(['jobs', 'mail.me'])
    expect(retried({ taskQueues }, 'mail', `${held}0.1.me`)).toEqual(['jobs', 'mail.*'])
    expect(retried({ taskQueues }, 'mail', 'mail.me')).toEqual(['jobs', 'mail.me'])
    expect(retried({ taskQueues }, 'mail', `${held}post.me`)).toEqual(['jobs', 'mail.*'])
    expect(retried({ taskQueues }, 'all', `${held}all`)).toEqual(['everybody', 'all'])
    expect(retried({ taskQueues }, 'all', `${held}anything`)).toEqual(['everybody', 'all'])
    expect(retried({ taskQueues }, 'plain', `${held}plain`)).toEqual(['', 'plain'])
  })
})
