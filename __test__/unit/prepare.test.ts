import { once } from 'node:events'

import { beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery } from '../../lib/app.ts'
import { DateTime } from '../../lib/serialization/types.ts'
import { FakeBroker, FakeResults } from './support/fake-native.ts'

vi.mock(import('../../lib/native.ts'), async (original) => {
  const fake = await import('./support/fake-native.ts')
  return {
    ...(await original()),
    openNativeBroker: (...args) => fake.FakeBroker.open(...args),
    openNativeResults: (...args) => fake.FakeResults.open(...args),
  }
})

let app: Celery

beforeEach(() => {
  FakeBroker.opened = []
  app = new Celery('proj', { broker: 'memory://', backend: 'cache+memory://' })
})

const invalid = (text: string): unknown =>
  expect.objectContaining({
    code: 'ERR_CELERIAC_INVALID_ARGUMENT',
    message: expect.stringContaining(text) as string,
  })

describe('what the core is told', () => {
  test('who sends, where to, and how long it may take', async () => {
    const settings = {
      broker: 'redis://host/1',
      brokerTransportOptions: { visibilityTimeout: 60, global_keyprefix: 'p' },
      brokerConnectionTimeout: 2,
      publishTimeout: 3,
    }
    const told = new Celery('told', settings)
    await told.sendTask('t')
    const { transportOptions, ...rest } = FakeBroker.last.options
    expect(rest).toEqual({
      url: 'redis://host/1',
      connectTimeoutMs: 2000,
      publishTimeoutMs: 3000,
      origin: expect.stringMatching(new RegExp(`^gen${process.pid}@.`)) as string,
      replyTo: told.oid,
    })
    expect(JSON.parse(transportOptions)).toEqual({ visibility_timeout: 60, global_keyprefix: 'p' })
    await told.close()
  })

  test('how TLS is used', async () => {
    const tls = { sslCaCerts: 'ca.pem', ssl_certfile: 'client.pem' }
    const told = new Celery({
      broker: 'redis://host',
      brokerUseSsl: tls,
      backend: 'redis://host',
      redisBackendUseSsl: tls,
    })
    await told.sendTask('t')
    await told.AsyncResult('id').state()
    const ssl = { ssl_ca_certs: 'ca.pem', ssl_certfile: 'client.pem' }
    expect(JSON.parse(FakeBroker.last.options.transportOptions)).toEqual({ ssl })
    expect(JSON.parse(FakeResults.last.options.options)).toMatchObject({ ssl })
    await told.close()
  })

  test('how RabbitMQ is reached, and how results come by it', async () => {
    const settings = {
      broker: ['amqp://writes', 'amqp://writes-too'],
      brokerReadUrl: 'amqp://reads',
      brokerHeartbeat: 7,
      brokerLoginMethod: 'AMQPLAIN',
      brokerFailoverStrategy: 'shuffle',
      backend: 'rpc://',
      resultExpires: 60,
      resultPersistent: true,
    } as const
    const told = new Celery(settings)
    await told.sendTask('t')
    const { url, transportOptions } = FakeBroker.last.options
    expect(url).toBe('amqp://writes;amqp://writes-too')
    const options = {
      default_heartbeat: 7,
      login_method: 'AMQPLAIN',
      failover_strategy: 'shuffle',
      read_url: 'amqp://reads',
    }
    expect(JSON.parse(transportOptions)).toEqual(options)
    expect(FakeResults.last.options.url).toBe('rpc://')
    expect(JSON.parse(FakeResults.last.options.options)).toEqual({
      broker: url,
      broker_options: options,
      reply_to: told.oid,
      expires: 60,
      persistent: true,
    })
    await told.close()
  })

  test('nothing of RabbitMQ where the broker is another one', async () => {
    const told = new Celery({ broker: 'redis://host', brokerHeartbeat: 7, brokerLoginMethod: 'AMQPLAIN' })
    await told.sendTask('t')
    expect(JSON.parse(FakeBroker.last.options.transportOptions)).toEqual({})
    await told.close()
  })

  test('where results are, and how to get there', async () => {
    app.conf.update({
      resultBackendTransportOptions: { globalKeyprefix: 'p' },
      redisSocketTimeout: 7,
      redisSocketConnectTimeout: 3,
    })
    await app.AsyncResult('id').state()
    const { options, ...rest } = FakeResults.last.options
    expect(rest).toEqual({ url: 'cache+memory://', connectTimeoutMs: 3000 })
    expect(JSON.parse(options)).toEqual({ global_keyprefix: 'p', socket_timeout: 7 })
  })

  test('what the settings say of every task', async () => {
    app.conf.update({
      taskDefaultPriority: 6,
      taskReprMaxlevels: 5,
      taskSoftTimeLimit: 7,
      taskIgnoreResult: true,
    })
    const task = app.task({ name: 't' }, () => 1)
    await task.delay()
    const told = { priority: 6, reprMaxLevels: 5, softTimeLimit: 7, ignoreResult: true }
    expect(FakeBroker.last.sent[0]?.route).toMatchObject(told)
  })
})

describe('options of a call', () => {
  const send = async (options: Parameters<Celery['sendTask']>[2], name = 'py.task') => {
    const result = await app.sendTask(name, [], options)
    return { result, sent: FakeBroker.last.sent.at(-1) as NonNullable<(typeof FakeBroker.last.sent)[number]> }
  }

  test('a task of another program says nothing of results', async () => {
    expect((await send({})).sent.route).toMatchObject({ ignoreResult: null, timeLimit: null })
  })

  test('countdown becomes an eta in UTC', async () => {
    const before = Date.now()
    const { sent } = await send({ countdown: 10 })
    const eta = String(sent.options?.['eta'])
    expect(eta).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}000)?\+00:00$/)
    expect(Date.parse(eta)).toBeGreaterThanOrEqual(before + 10_000)
    expect(Date.parse(eta)).toBeLessThanOrEqual(Date.now() + 10_000)
  })

  test('an expiry in the past is sent as 0, with a warning', async () => {
    const warning = once(process, 'warning')
    expect((await send({ expires: -5 })).sent.options).toMatchObject({ expiration_ms: 0 })
    expect((await warning)[0]).toMatchObject({ code: 'CELERIAC_EXPIRED' })
  })

  test('a countdown of 0 is none', async () => {
    expect((await send({ countdown: 0 })).sent.options).toBeNull()
  })

  test.each([
    [new Date(Date.UTC(2030, 0, 1)), '2030-01-01T00:00:00+00:00'],
    ['2030-01-01T00:00:00.000001+02:00', '2030-01-01T00:00:00.000001+02:00'],
    ['2030-01-01T00:00:00', '2030-01-01T00:00:00+00:00'],
    [new DateTime('2030-01-01T00:00:00.000001+02:00'), '2030-01-01T00:00:00.000001+02:00'],
  ])('eta %s', async (eta, text) => {
    expect((await send({ eta })).sent.options).toEqual({ eta: text })
  })

  test.each([
    ['Europe/Berlin', '2030-07-01T12:00:00', '2030-07-01T12:00:00+02:00'],
    ['Europe/Berlin', '2030-01-01', '2030-01-01T00:00:00+01:00'],
    ['America/New_York', '2030-01-01T12:00:00.000001', '2030-01-01T12:00:00.000001-05:00'],
    ['Asia/Kolkata', '2030-01-01 12:00:00', '2030-01-01T12:00:00+05:30'],
    ['Asia/Kolkata', '2030-01-01T12:00:00Z', '2030-01-01T12:00:00Z'],
  ])('in %s the eta %s is %s', async (timezone, eta, text) => {
    app.conf.timezone = timezone
    expect((await send({ eta })).sent.options).toEqual({ eta: text })
  })

  test('expires is a header and a property', async () => {
    const { sent } = await send({ expires: 1.5 })
    expect(sent.options).toEqual({
      expires: expect.stringMatching(/\+00:00$/) as string,
      expiration_ms: 1500,
    })
    expect((await send({ expires: '2001-01-01T00:00:00' })).sent.options).toEqual({
      expires: '2001-01-01T00:00:00+00:00',
      expiration_ms: 0,
    })
    expect((await send({ expires: -5 })).sent.options).toMatchObject({ expiration_ms: 0 })
  })

  test('those of the message travel with it', async () => {
    const { sent, result } = await send({
      taskId: 'my-id',
      shadow: 'shown',
      retries: 2,
      groupId: 'g',
      groupIndex: 0,
      rootId: 'r',
      parentId: 'p',
      replyTo: 'me',
      origin: 'here',
      priority: 3,
      timeLimit: 10,
      softTimeLimit: 5,
      deliveryMode: 'transient',
      ignoreResult: true,
      argsrepr: '(…)',
      kwargsrepr: '{…}',
      replacedTaskNesting: 1,
      headers: { trace: 'x' },
      properties: { app_id: 'y' },
      stamps: { deploy: 7 },
    })
    expect(result.id).toBe('my-id')
    expect(await result.get()).toBeNull()
    expect(sent.options).toEqual({
      shadow: 'shown',
      retries: 2,
      group: 'g',
      group_index: 0,
      root_id: 'r',
      parent_id: 'p',
      reply_to: 'me',
      origin: 'here',
      priority: 3,
      time_limit: [10, 5],
      delivery_mode: 1,
      ignore_result: true,
      argsrepr: '(…)',
      kwargsrepr: '{…}',
      replaced_task_nesting: 1,
      headers: { trace: 'x' },
      properties: { app_id: 'y' },
      stamped_headers: ['deploy'],
      stamps: { deploy: 7 },
    })
  })

  test('link and linkError become lists of signatures', async () => {
    const add = app.task({ name: 'add' }, (x: number, y: number) => x + y)
    const { sent } = await send({
      link: add.s(2),
      linkError: [app.signature('py.oops', { immutable: true })],
    })
    const signature = { args: [], kwargs: {}, options: {}, subtask_type: null, immutable: false }
    expect(sent.options).toEqual({
      callbacks: [{ ...signature, task: 'add', args: [2] }],
      errbacks: [{ ...signature, task: 'py.oops', immutable: true }],
    })
  })

  test.each<[string, object, string]>([
    ['an unknown one', { countDown: 5 }, "'countdown'"],
    ['countdown and eta at once', { countdown: 5, eta: new Date() }, 'not both'],
    ['a soft limit above the hard one', { softTimeLimit: 5, timeLimit: 4 }, 'must not exceed'],
    ['a priority beyond 255', { priority: 256 }, 'priority'],
    ['a priority that is no integer', { priority: 1.5 }, 'priority'],
    ['an eta that is no time', { eta: 'soon' }, 'eta'],
    ['an invalid Date', { eta: new Date(NaN) }, 'eta'],
    ['expires that is no time', { expires: 'soon' }, 'expires'],
    ['a countdown that is no number', { countdown: '5' }, 'countdown'],
    ['a countdown below Celery’s bound', { countdown: -3e9 }, 'countdown'],
    ['a countdown beyond the calendar', { countdown: 1e15 }, 'calendar'],
    ['a delivery mode that is none', { deliveryMode: 3 }, 'deliveryMode'],
    ['headers that are no object', { headers: [] }, 'headers'],
    ['ignoreResult that is no boolean', { ignoreResult: 1 }, 'ignoreResult'],
  ])('%s is refused', async (_, options, text) => {
    await expect(app.sendTask('t', [], options)).rejects.toThrow(invalid(text))
    expect(FakeBroker.opened.flatMap((broker) => broker.sent)).toEqual([])
  })

  test.each([5, '', {}])('the task id %j is refused', async (taskId) => {
    const wrong = invalid('taskId must be a string that is not empty')
    const options = { taskId } as unknown as { taskId: string }
    const add = app.task({ name: 'add' }, (x: number) => x)
    await expect(app.sendTask('x', [], options)).rejects.toThrow(wrong)
    await expect(add.applyAsync([1], options)).rejects.toThrow(wrong)
    await expect(add.apply([1], options)).rejects.toThrow(wrong)
    expect(() => add.s(1).set(options).freeze()).toThrow(wrong)
    expect(() => add.s(1).freeze(options)).toThrow(wrong)
    expect(FakeBroker.opened).toEqual([])
  })

  test('null stands for the default of each', async () => {
    const none = {
      kwargs: null,
      countdown: null,
      eta: null,
      expires: null,
      taskId: null,
      retry: null,
      retryPolicy: null,
      link: null,
      linkError: null,
      shadow: null,
      queue: null,
      exchange: null,
      exchangeType: null,
      routingKey: null,
      priority: null,
      serializer: null,
      compression: null,
      deliveryMode: null,
      headers: null,
      properties: null,
      addToParent: null,
      ignoreResult: null,
      replyTo: null,
      groupId: null,
      groupIndex: null,
      chord: null,
      chain: null,
      rootId: null,
      parentId: null,
      retries: null,
      origin: null,
      replacedTaskNesting: null,
      argsrepr: null,
      kwargsrepr: null,
      stamps: null,
      routeName: null,
    }
    const add = app.task({ name: 'add' }, (x: number) => x)
    await add.applyAsync([1])
    await add.applyAsync([1], none)
    await app.sendTask('add', [1], null)
    await app.sendTask('add', [1], none)
    const [first, ...others] = FakeBroker.last.sent.map((message) => ({ ...message, taskId: '' }))
    for (const other of others) expect(other).toEqual(first)
    expect(FakeBroker.last.sent.every(({ taskId }) => taskId.length === 36)).toBe(true)
    await app.sendTask('add', null)
    expect(FakeBroker.last.sent.at(-1)?.args).toBe('[]')
  })

  test('another serializer or a compression is refused', async () => {
    await expect(send({ serializer: 'pickle' })).rejects.toMatchObject({ code: 'ERR_CELERIAC_NOT_SUPPORTED' })
    await expect(send({ compression: 'gzip' })).rejects.toMatchObject({ code: 'ERR_CELERIAC_NOT_SUPPORTED' })
  })

  test('those of the task complete the call’s, and null takes limits back', async () => {
    const options = {
      name: 'limited',
      queue: 'slow',
      priority: 4,
      timeLimit: 9,
      softTimeLimit: 8,
      expires: 60,
    }
    const task = app.task(options, () => 1)
    await task.delay()
    const { sent } = await send({}, 'limited')
    expect(sent.route).toMatchObject({ routingKey: 'slow', priority: 4, timeLimit: 9, softTimeLimit: 8 })
    expect(sent.options).toMatchObject({ expiration_ms: 60_000 })
    const cleared = await send(
      { timeLimit: null, softTimeLimit: null, expires: null, priority: 5 },
      'limited',
    )
    expect(cleared.sent.options).toEqual({ time_limit: [null, null], priority: 5 })
  })

  test('taskAnnotations change those of the task, for its name and then for all', async () => {
    const task = app.task({ name: 'annotated', queue: 'own', priority: 1 }, () => 1)
    await task.delay()
    app.conf.taskAnnotations = [
      { annotated: { queue: 'q', priority: 2 } },
      { '*': { priority: 3, max_retries: 9 } },
    ]
    await task.delay()
    expect(FakeBroker.last.sent.map(({ route }) => [route.routingKey, route.priority])).toEqual([
      ['own', 1],
      ['q', 3],
    ])
    expect(task.maxRetries).toBe(9)
    const annotate = vi.fn(() => ({ rate_limit: null, priority: 4 }))
    app.conf.taskAnnotations = [annotate]
    await task.delay()
    await task.delay()
    expect([task.options.priority, task.options.queue]).toEqual([4, 'own'])
    expect(annotate).toHaveBeenCalledTimes(1)
    app.conf.taskAnnotations = { annotated: { maxRetry: 1 } }
    await expect(task.delay()).rejects.toThrow(invalid("'maxRetry'"))
  })

  test('how a publish is retried is that of the call, else of the settings', async () => {
    app.conf.taskPublishRetryPolicy = { maxRetries: 7, intervalStart: 1 }
    await send({})
    await send({
      retry: false,
      retryPolicy: { maxRetries: null, intervalStep: 2, interval_max: 3 } as object,
    })
    app.conf.taskPublishRetry = false
    await send({})
    expect(
      FakeBroker.last.sent.map(({ route }) => [
        route.retry,
        route.maxRetries,
        route.intervalStartMs,
        route.intervalStepMs,
        route.intervalMaxMs,
      ]),
    ).toEqual([
      [true, 7, 1000, 200, 1000],
      [false, null, 1000, 2000, 3000],
      [false, 7, 1000, 200, 1000],
    ])
  })

  test('the delivery mode is that of the call, else of the exchange, else of the settings', async () => {
    app.conf.taskQueues = { a: { exchange: { name: 'x', deliveryMode: 'transient' } }, b: {} }
    await send({ queue: 'a' })
    await send({ queue: 'b' })
    await send({ queue: 'a', deliveryMode: 'persistent' })
    app.conf.taskDefaultDeliveryMode = 'transient'
    await send({ queue: 'b' })
    const modes = FakeBroker.last.sent.map(
      ({ route, options }) => options?.['delivery_mode'] ?? route.deliveryMode,
    )
    expect(modes).toEqual([1, 2, 2, 1])
  })

  test('routeName is routed as a task of that name', async () => {
    app.conf.taskRoutes = { other: 'q' }
    expect((await send({ routeName: 'other' })).sent.route).toMatchObject({
      task: 'py.task',
      routingKey: 'q',
    })
  })

  test('arguments are an array and an object', async () => {
    await expect(app.sendTask('t', 'ab' as never)).rejects.toThrow(invalid('must be an array'))
    await expect(send({ kwargs: [] as never })).rejects.toThrow(invalid('must be an object'))
  })

  test('shadowName names the call that names nothing itself', async () => {
    const task = app.task(
      { name: 'plain', shadowName: (args) => `shown ${String(args[0])}` },
      (x: number) => x,
    )
    await task.delay(1)
    await task.applyAsync([2], { shadow: 'mine' })
    expect(FakeBroker.last.sent.map(({ options }) => options?.['shadow'])).toEqual(['shown 1', 'mine'])
  })

  test('what varies from call to call needs no route of its own', async () => {
    for (let priority = 0; priority < 10; priority++) await send({ priority, timeLimit: priority + 1 })
    expect(FakeBroker.last.routes).toHaveLength(1)
  })
})
