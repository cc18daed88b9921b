import { getEventListeners, once } from 'node:events'

import { beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery } from '../../lib/app.ts'
import { currentTask } from '../../lib/current-task.ts'
import { Request } from '../../lib/request.ts'
import { AsyncResult } from '../../lib/result.ts'
import { SendManyError } from '../../lib/send-many.ts'
import { DateTime } from '../../lib/serialization/types.ts'
import { sharedTask } from '../../lib/shared-task.ts'
import { TaskContext } from '../../lib/task-context.ts'
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

describe('registering tasks', () => {
  test('a task without a name has the app’s and the function’s', () => {
    expect(app.task(function add() {}).name).toBe('proj.add')
    expect(app.tasks.get('proj.add')?.app).toBe(app)
  })

  test('a function without a name needs one', () => {
    expect(() => app.task(() => 1)).toThrow(invalid('needs a name'))
  })

  test('a name is taken once', () => {
    app.task({ name: 'a' }, () => 1)
    expect(() => app.task({ name: 'a' }, () => 2)).toThrow(
      expect.objectContaining({
        code: 'ERR_CELERIAC_DUPLICATE_TASK',
        message: expect.stringContaining('a') as string,
      }),
    )
  })

  test('an unknown option is refused with the nearest', () => {
    // @ts-expect-error no such option
    expect(() => app.task({ name: 'a', maxRetry: 1 }, () => 1)).toThrow(invalid("'maxRetries'"))
  })

  test.each<[string, unknown, string]>([
    ['maxRetries', -1, 'a whole number from 0 on, or null for no limit, not -1'],
    ['maxRetries', 1.5, 'a whole number from 0 on, or null for no limit, not 1.5'],
    ['maxRetries', Infinity, 'a whole number from 0 on, or null for no limit, not Infinity'],
    ['defaultRetryDelay', -1, 'a number of seconds from 0 on, not -1'],
    ['softTimeLimit', NaN, 'a number of seconds from 0 on, not NaN'],
    ['timeLimit', -5, 'a number of seconds from 0 on, not -5'],
    ['retryBackoff', 'fast', "true, false or a number from 0 on, not 'fast'"],
    ['retryBackoff', -2, 'true, false or a number from 0 on, not -2'],
    ['retryBackoffMax', Infinity, 'a number of seconds from 0 on, not Infinity'],
    ['retryKwargs', 5, 'an object, not 5'],
    ['priority', 256, 'an integer from 0 to 255, not 256'],
    ['rateLimit', '10/d', "calls per second, or such as '10/s', '10/m' or '10/h', not '10/d'"],
    ['expires', {}, 'a number of seconds, a Date or a time as text, not {}'],
    ['deliveryMode', 3, "1 ('transient') or 2 ('persistent'), not 3"],
    ['autoretryFor', ['Error'], 'an error class, or an array of them, not'],
    ['params', 'x', "an array of names, not 'x'"],
  ])('the option %s cannot be %j', (name, value, text) => {
    expect(() => app.task({ name: 'a', [name]: value }, () => 1)).toThrow(
      invalid(`task a: ${name} must be ${text}`),
    )
  })

  test('null stands for the default of each option, but is no limit of retries', async () => {
    const none = {
      name: null,
      bind: null,
      params: null,
      typing: null,
      defaultRetryDelay: null,
      throws: null,
      autoretryFor: null,
      dontAutoretryFor: null,
      retryKwargs: null,
      retryBackoff: null,
      trail: null,
    }
    const task = app.task({ ...none, bind: false }, function add(x: number) {
      return x
    })
    expect([task.name, task.parameters, task.bound, task.defaultRetryDelay]).toEqual([
      'proj.add',
      null,
      false,
      180,
    ])
    expect(task.options).not.toHaveProperty('throws')
    expect(app.task({ name: 'more', maxRetries: null }, () => 1).maxRetries).toBeNull()
    expect(await (await task.apply([1])).get()).toBe(1)
  })

  test('options that change nothing yet give one warning each', async () => {
    const warnings: Array<Error & { code?: string }> = []
    const keep = (warning: Error): number => warnings.push(warning)
    process.on('warning', keep)
    app.task({ name: 'quiet', rateLimit: null, sendEvents: false, serializer: 'json' }, () => 1)
    for (const name of ['a', 'b']) {
      const options = {
        rateLimit: '10/m',
        sendEvents: true,
        serializer: 'yaml',
        compression: 'gzip',
        timeLimit: 5,
        acksOnTimeout: true,
        rejectOnWorkerLost: true,
        retryOnWorkerLost: true,
      }
      app.task({ ...options, name }, () => 1)
    }
    await new Promise(setImmediate)
    process.off('warning', keep)
    const ours = warnings.filter(({ message }) => message.startsWith('the task option'))
    expect(ours.map(({ code, message }) => [code, message.split(' ')[3]])).toEqual(
      [
        'rateLimit',
        'sendEvents',
        'serializer',
        'compression',
        'timeLimit',
        'acksOnTimeout',
        'rejectOnWorkerLost',
        'retryOnWorkerLost',
      ].map((name) => ['CELERIAC_NOT_HONOURED', name]),
    )
  })

  test('an option of a wrong type is refused', () => {
    // @ts-expect-error a number
    expect(() => app.task({ name: 'a', maxRetries: '1' }, () => 1)).toThrow(
      invalid('maxRetries must be a whole number'),
    )
  })

  test('a shared task is on apps made before and after it', async () => {
    const earlier = new Celery('earlier', { broker: 'memory://' })
    const shared = sharedTask({ name: 'shared.double' }, (x: number) => 2 * x)
    const later = new Celery('later', { broker: 'memory://' })
    expect(earlier.tasks.has('shared.double')).toBe(true)
    expect(later.tasks.get('shared.double')?.app).toBe(later)
    expect(shared(2)).toBe(4)
    expect((await shared.delay(2)).app).toBe(later)
    await later.close()
    expect(shared.app).toBe(earlier)
    expect(() => sharedTask({ name: 'shared.double' }, () => 1)).toThrow(
      expect.objectContaining({ code: 'ERR_CELERIAC_DUPLICATE_TASK' }),
    )
  })
})

describe('calling a task', () => {
  test('runs its body, as the current task', () => {
    const add = app.task({ name: 'add', bind: true }, (self, x: number, y: number) => {
      expect(currentTask()).toBe(self)
      expect(self.request.calledDirectly).toBe(true)
      return x + y
    })
    expect(add(2, 3)).toBe(5)
    expect(currentTask()).toBeUndefined()
  })

  test('a retry there throws its reason', () => {
    const reason = new Error('no luck')
    const flaky = app.task({ name: 'flaky', bind: true }, (self) => {
      throw self.retry({ exc: reason })
    })
    expect(() => flaky()).toThrow(reason)
  })
})

describe('delay', () => {
  test('sends the arguments and gives the result', async () => {
    const add = app.task({ name: 'add' }, (x: number, y: number) => x + y)
    const result = await add.delay(2, 3)
    expect(result).toBeInstanceOf(AsyncResult)
    expect('then' in result).toBe(false)
    expect(FakeBroker.last.sent).toEqual([
      {
        taskId: result.id,
        args: '[2,3]',
        kwargs: '{}',
        options: null,
        route: expect.objectContaining({
          task: 'add',
          exchange: '',
          exchangeType: 'direct',
          routingKey: 'celery',
          ignoreResult: false,
          deliveryMode: 2,
          priority: 0,
          retry: true,
          maxRetries: null,
          intervalStartMs: 0,
          intervalStepMs: 200,
          intervalMaxMs: 1000,
        }) as object,
      },
    ])
  })

  test('registers a route once, and again after a setting changed', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    await add.delay(1)
    await add.delay(2)
    expect(FakeBroker.last.routes).toHaveLength(1)
    app.conf.taskRoutes = { add: 'other' }
    await add.delay(3)
    expect(FakeBroker.last.sent.at(-1)?.route.routingKey).toBe('other')
  })

  test('rejects for arguments that cannot be sent, and sends nothing', async () => {
    const add = app.task({ name: 'add' }, (x: unknown) => x)
    await expect(add.delay(() => 1)).rejects.toMatchObject({ code: 'ERR_CELERIAC_ENCODE' })
    expect(FakeBroker.last.sent).toEqual([])
  })

  test('rejects with what the core reports', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    await add.delay(1)
    FakeBroker.last.failure = { code: 'ERR_CELERIAC_PUBLISH_TIMEOUT', message: 'too late' }
    await expect(add.delay(1)).rejects.toMatchObject({
      code: 'ERR_CELERIAC_PUBLISH_TIMEOUT',
      message: 'too late',
    })
  })

  test('checks declared parameters before it sends', async () => {
    const add = app.task(
      { name: 'pkg.add', params: ['x', 'y', 'z?'] },
      (x: number, y: number, _z?: number) => x + y,
    )
    await expect(add.applyAsync([1] as never)).rejects.toThrow(
      new TypeError("add() missing 1 required positional argument: 'y'"),
    )
    await expect(add.applyAsync([1, 2], { kwargs: { w: 1 } })).rejects.toThrow(
      new TypeError("add() got an unexpected keyword argument 'w'"),
    )
    await expect(add.delay(...([1, 2, 3, 4] as unknown as [number, number]))).rejects.toThrow(
      new TypeError('add() takes 3 positional arguments but 4 were given'),
    )
    await add.applyAsync([], { kwargs: { x: 1, y: 2 } })
    expect(FakeBroker.last.sent.at(-1)).toMatchObject({ args: '[]', kwargs: '{"x":1,"y":2}' })
    const loose = app.task({ name: 'loose', params: ['x'], typing: false }, (x: number) => x)
    await loose.applyAsync([1, 2] as never)
    expect(FakeBroker.last.sent.at(-1)).toMatchObject({ args: '[1,2]' })
  })
})

describe('delayMany', () => {
  test('sends all calls in one crossing and gives their results in order', async () => {
    const add = app.task({ name: 'add' }, (x: number, y: number) => x + y)
    const results = await add.delayMany(
      (function* () {
        yield [1, 2] as const
        yield [3, 4] as const
      })(),
    )
    const { sent, crossings, routes } = FakeBroker.last
    expect(crossings).toEqual([2])
    expect(routes).toHaveLength(1)
    expect(sent.map(({ taskId, args }) => [taskId, args])).toEqual([
      [results[0]?.id, '[1,2]'],
      [results[1]?.id, '[3,4]'],
    ])
    expect(await add.delayMany([])).toEqual([])
  })

  test('takes the options of applyAsync for all calls, but no taskId', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    const results = await add.applyAsyncMany([[1], [2]], {
      kwargs: { y: 1 },
      shadow: 's',
      ignoreResult: true,
    })
    expect(FakeBroker.last.sent.map(({ args, kwargs, options }) => [args, kwargs, options])).toEqual([
      ['[1]', '{"y":1}', { shadow: 's', ignore_result: true }],
      ['[2]', '{"y":1}', { shadow: 's', ignore_result: true }],
    ])
    expect(results.map(({ ignored }) => ignored)).toEqual([true, true])
    const options = { taskId: 'one' } as object
    await expect(add.applyAsyncMany([[1]], options)).rejects.toThrow(invalid('taskId'))
  })

  test('sends nothing when one call is wrong, and says which', async () => {
    const add = app.task({ name: 'add', params: ['x'] }, (x: unknown) => x)
    const calls = [[1], [() => 1], [2, 3], [4]] as Array<[unknown]>
    const error = (await add.delayMany(calls).catch((thrown: unknown) => thrown)) as SendManyError
    expect(error).toBeInstanceOf(SendManyError)
    expect(error.code).toBe('ERR_CELERIAC_NOT_ALL_SENT')
    expect(error.message).toBe(
      'none of 4 calls were sent; number 1 (from 0): cannot send args[0]: it is a function, and JSON has no form for it',
    )
    expect(error.failures.map(({ index }) => index)).toEqual([1, 2])
    expect(error.failures[0]?.error).toMatchObject({ code: 'ERR_CELERIAC_ENCODE' })
    expect(error.failures[1]?.error).toBeInstanceOf(TypeError)
    expect(error.results).toEqual([null, null, null, null])
    expect(FakeBroker.last.sent).toEqual([])
  })

  test('says which calls the broker did not take, and has the results of the others', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    await add.delay(0)
    const broker = FakeBroker.last
    broker.refuses = (args) => args === '[2]'
    const error = (await add.delayMany([[1], [2], [3]]).catch((thrown: unknown) => thrown)) as SendManyError
    expect(error).toBeInstanceOf(SendManyError)
    expect(error.message).toBe('2 of 3 calls were sent; number 1 (from 0): refused')
    expect(error.failures).toEqual([
      { index: 1, error: expect.objectContaining({ code: 'ERR_CELERIAC_REFUSED' }) as Error },
    ])
    expect(error.cause).toBe(error.failures[0]?.error)
    const [, one, , three] = broker.sent.map(({ taskId }) => taskId)
    expect(error.results.map((result) => result?.id)).toEqual([one, undefined, three])
  })

  test('calls of a running task are its children, those that failed are not', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    await add.delay(0)
    FakeBroker.last.refuses = (args) => args === '[2]'
    const outer = app.task({ name: 'outer' }, () => add.delayMany([[1], [2]]).catch(() => {}))
    const context = new TaskContext(app, outer, new Request('me', 'outer', [], {}, { root_id: 'root' }))
    await outer.run(context, [], {})
    const [, sent] = FakeBroker.last.sent
    expect(sent?.options).toEqual({ root_id: 'root', parent_id: 'me' })
    expect(context.request.children.map((child) => child.asTuple())).toEqual([[[sent?.taskId, null], null]])
  })

  test('taskAlwaysEager runs them here', async () => {
    app.conf.taskAlwaysEager = true
    const add = app.task({ name: 'add' }, (x: number, y: number) => x + y)
    const results = await add.delayMany([
      [1, 2],
      [3, 4],
    ])
    expect(await Promise.all(results.map((result) => result.get()))).toEqual([3, 7])
    expect(FakeBroker.opened.flatMap(({ sent }) => sent)).toEqual([])
  })

  test('rejects once the app is closed', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    await add.delay(0)
    await app.close()
    await expect(add.delayMany([[1]])).rejects.toMatchObject({ code: 'ERR_CELERIAC_CLOSED' })
  })
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

describe('inside of a task', () => {
  const inside = async (work: () => Promise<unknown>, priority?: number) => {
    const outer = app.task({ name: `outer${app.tasks.size}` }, work)
    const wire = { root_id: 'root', ...(priority === undefined ? {} : { priority }) }
    const context = new TaskContext(app, outer, new Request('me', 'outer', [], {}, wire))
    await outer.run(context, [], {})
    return context
  }

  test('a call knows its root and parent, and the parent its child', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    const context = await inside(() => add.delay(1))
    const [sent] = FakeBroker.last.sent
    expect(sent?.options).toEqual({ root_id: 'root', parent_id: 'me' })
    expect(context.request.children.map((child) => child.asTuple())).toEqual([[[sent?.taskId, null], null]])
  })

  test('a call that is not waited for is a child too, until it fails', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    await add.delay(0)
    FakeBroker.last.failure = { code: 'ERR_CELERIAC_CONNECTION', message: 'no broker' }
    let call: Promise<unknown> | undefined
    const context = await inside(() => {
      call = add.delay(1)
      return Promise.resolve()
    })
    expect(context.request.children).toHaveLength(1)
    await expect(call).rejects.toThrow('no broker')
    expect(context.request.children).toEqual([])
  })

  test('addToParent: false keeps the child to itself', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    const context = await inside(() => add.applyAsync([1], { addToParent: false }))
    expect(context.request.children).toEqual([])
  })

  test('trail: false keeps all children to themselves', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    const outer = app.task({ name: 'outer', trail: false }, () => add.delay(1))
    const context = new TaskContext(app, outer, new Request('me', 'outer', [], {}, {}))
    await outer.run(context, [], {})
    expect(context.request.children).toEqual([])
  })

  test('currentWorkerTask passes over a task that was called like a function', async () => {
    const helper = app.task({ name: 'helper' }, () => [app.currentTask?.name, app.currentWorkerTask?.name])
    let seen: unknown
    await inside(async () => {
      seen = helper()
    })
    expect(seen).toEqual(['helper', expect.stringMatching(/^outer\d*$/)])
    expect([app.currentTask, app.currentWorkerTask]).toEqual([undefined, undefined])
  })

  test('a task called like a function is no parent', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    const helper = app.task({ name: 'helper' }, () => add.delay(1))
    await inside(() => helper())
    expect(FakeBroker.last.sent[0]?.options).toMatchObject({ parent_id: 'me' })
  })

  test('taskInheritParentPriority hands the priority down', async () => {
    app.conf.taskInheritParentPriority = true
    await inside(() => app.sendTask('t'), 7)
    expect(FakeBroker.last.sent[0]?.options).toMatchObject({ priority: 7 })
  })
})

describe('results', () => {
  test.each([[1], [{ timout: 1 }], [{ timeout: NaN }], [{ timeout: -1 }], [{ timeout: '1' }]])(
    'get(%j) is refused instead of waiting for ever',
    async (options) => {
      await expect(app.AsyncResult('id').get(options as never)).rejects.toMatchObject({
        code: 'ERR_CELERIAC_INVALID_ARGUMENT',
      })
    },
  )

  test.each([[''], [5]])('a queue called %j is refused, for nobody would read it', async (queue) => {
    await expect(app.sendTask('t', [], { queue: queue as never })).rejects.toMatchObject({
      code: 'ERR_CELERIAC_INVALID_ARGUMENT',
    })
  })

  test('get waits for the worker', async () => {
    const result = app.AsyncResult<number>('id')
    const value = result.get({ timeout: 5 })
    FakeResults.last.put('id', 'SUCCESS', 5)
    expect(await value).toBe(5)
    expect(await result.ready()).toBe(true)
    FakeResults.last.documents.clear()
    expect(await result.state()).toBe('SUCCESS')
  })

  test('values with tags are revived', async () => {
    const result = app.AsyncResult('id')
    const value = result.get()
    FakeResults.last.put(
      'id',
      'SUCCESS',
      { __type__: 'int', __value__: '99999999999999999999' },
      { tagged: true },
    )
    expect(await value).toBe(99999999999999999999n)
  })

  test('a failure is thrown as data, and begins where get was called', async () => {
    const result = app.AsyncResult('id')
    const failure = { exc_type: 'ValueError', exc_message: ['bad', 2], exc_module: 'builtins' }
    const waiting = result.get()
    FakeResults.last.put('id', 'FAILURE', failure, { traceback: 'Traceback …' })
    await expect(waiting).rejects.toMatchObject({
      code: 'ERR_CELERIAC_TASK_FAILED',
      name: 'TaskError',
      type: 'ValueError',
      module: 'builtins',
      args: ['bad', 2],
      message: 'ValueError: bad, 2',
      traceback: 'Traceback …',
      taskId: 'id',
    })
    expect(await result.get({ propagate: false })).toMatchObject({ type: 'ValueError' })
    expect(await result.result()).toMatchObject({ type: 'ValueError' })
    expect(await result.failed()).toBe(true)
  })

  test('a revoked task throws TaskRevokedError', async () => {
    const result = app.AsyncResult('id')
    const waiting = result.get()
    const document = {
      exc_type: 'TaskRevokedError',
      exc_message: ['revoked'],
      exc_module: 'celery.exceptions',
    }
    FakeResults.last.put('id', 'REVOKED', document)
    await expect(waiting).rejects.toMatchObject({
      code: 'ERR_CELERIAC_TASK_REVOKED',
      name: 'TaskRevokedError',
    })
  })

  test('why a task is retried is read as an error, and ends no wait', async () => {
    const result = app.AsyncResult('id')
    await result.state()
    FakeResults.last.put('id', 'RETRY', { exc_type: 'E', exc_message: ['later'], exc_module: 'm' })
    expect(await result.info()).toMatchObject({ name: 'TaskError', type: 'E', args: ['later'] })
    await expect(result.get({ timeout: 0.01 })).rejects.toMatchObject({ code: 'ERR_CELERIAC_TIMEOUT' })
  })

  test('a timeout, and a timeout of 0, are typed', async () => {
    await expect(app.AsyncResult('id').get({ timeout: 0.01 })).rejects.toMatchObject({
      code: 'ERR_CELERIAC_TIMEOUT',
    })
    await expect(app.AsyncResult('id').get({ timeout: 0 })).rejects.toMatchObject({
      code: 'ERR_CELERIAC_TIMEOUT',
    })
    expect(FakeResults.last.waits.size).toBe(0)
  })

  test('a signal ends the wait with its reason', async () => {
    const controller = new AbortController()
    const waiting = app.AsyncResult('id').get({ signal: controller.signal })
    controller.abort(new Error('enough'))
    await expect(waiting).rejects.toThrow('enough')
    expect(FakeResults.last.waits.size).toBe(0)
    await expect(app.AsyncResult('id').get({ signal: AbortSignal.abort() })).rejects.toThrow('aborted')
  })

  test('a failed parent ends the wait', async () => {
    const result = app.AsyncResult('child')
    result.parent = app.AsyncResult('parent')
    const waiting = result.get()
    FakeResults.last.put('parent', 'FAILURE', { exc_type: 'E', exc_message: ['x'], exc_module: 'm' })
    await expect(waiting).rejects.toMatchObject({ taskId: 'parent' })
    expect(FakeResults.last.waits.size).toBe(0)
  })

  test('nothing known is PENDING', async () => {
    const result = app.AsyncResult('id')
    expect(await result.state()).toBe('PENDING')
    expect(await result.result()).toBeNull()
    expect(await result.exists()).toBe(false)
  })

  test('children, date and extended fields are read', async () => {
    const result = app.AsyncResult('id')
    await result.state()
    FakeResults.last.put('id', 'SUCCESS', 1, {
      children: [
        [['c', [['p', null], null]], null],
        [
          ['g', null],
          [
            [['m1', null], null],
            [['m2', null], null],
          ],
        ],
      ],
      date_done: '2030-01-01T00:00:00.000001',
      name: 'add',
      args: [1],
      worker: 'w@h',
      retries: 1,
    })
    const children = await result.children()
    expect(children?.map((child) => child.asList())).toEqual([['c', 'p'], ['m1'], ['m2']])
    expect(await result.dateDone()).toEqual(new Date(Date.UTC(2030, 0, 1)))
    expect([await result.name(), await result.args(), await result.worker(), await result.retries()]).toEqual(
      ['add', [1], 'w@h', 1],
    )
  })

  test('onReady is called with the result', async () => {
    const result = app.AsyncResult('id')
    const called = new Promise((resolve) => result.onReady(resolve))
    FakeResults.last.put('id', 'FAILURE', { exc_type: 'E', exc_message: [], exc_module: 'm' })
    expect(await called).toBe(result)
  })

  test('onReady of an ignored result is called at once, and waits for nothing', async () => {
    const result = new AsyncResult(app, 'me', null, true)
    await new Promise<void>((resolve) => result.onReady(() => resolve()))
    expect(FakeResults.last?.waits.size ?? 0).toBe(0)
  })

  test('one signal may end many waits, and remembers none that is over', async () => {
    const controller = new AbortController()
    const { signal } = controller
    await app
      .AsyncResult('x')
      .get({ signal, timeout: 0 })
      .catch(() => {})
    const waits = Array.from({ length: 20 }, (_, index) =>
      new AsyncResult(app, `child-${index}`, new AsyncResult(app, `parent-${index}`)).get({ signal }),
    )
    expect(getEventListeners(signal, 'abort')).toHaveLength(1)
    const dependants = (): number | undefined => {
      const key = Object.getOwnPropertySymbols(signal).find(
        ({ description }) => description === 'kDependantSignals',
      )
      return key === undefined
        ? 0
        : (signal as unknown as Record<symbol, Set<unknown> | undefined>)[key]?.size
    }
    expect(dependants() ?? 0).toBe(0)
    controller.abort(new Error('enough'))
    const ends = await Promise.allSettled(waits)
    expect(ends.map((end) => (end as PromiseRejectedResult).reason as unknown)).toEqual(
      Array.from({ length: 20 }, () => new Error('enough')),
    )
    expect(FakeResults.last.waits.size).toBe(0)
  })

  test('null stands for the defaults of get', async () => {
    const waiting = new AsyncResult(app, 'child', new AsyncResult(app, 'parent')).get({
      timeout: null,
      signal: null,
      propagate: null,
      followParents: null,
    })
    FakeResults.last.put('parent', 'FAILURE', { exc_type: 'E', exc_message: ['x'], exc_module: 'm' })
    await expect(waiting).rejects.toMatchObject({ type: 'E' })
    expect(FakeResults.last.waits.size).toBe(0)
  })

  test('forget removes it and its parents', async () => {
    const result = app.AsyncResult('child')
    result.parent = app.AsyncResult('parent')
    await result.state()
    FakeResults.last.put('child', 'SUCCESS', 1)
    FakeResults.last.put('parent', 'SUCCESS', 1)
    await result.forget()
    expect(FakeResults.last.documents.size).toBe(0)
  })

  test('without a result backend each question says so', async () => {
    const bare = new Celery({ broker: 'memory://' })
    const result = bare.AsyncResult('id')
    for (const ask of [
      () => result.get(),
      () => result.state(),
      () => result.ready(),
      () => result.exists(),
    ]) {
      await expect(ask()).rejects.toMatchObject({ code: 'ERR_CELERIAC_NO_RESULT_BACKEND' })
    }
    await bare.close()
  })

  test('results compare by id and travel as tuples', () => {
    const result = app.AsyncResult('id')
    result.parent = app.AsyncResult('p')
    expect(result.equals(app.AsyncResult('id'))).toBe(true)
    expect(result.equals('id')).toBe(true)
    expect(result.equals('other')).toBe(false)
    expect(JSON.parse(JSON.stringify(result))).toEqual([['id', [['p', null], null]], null])
  })
})

describe('update_state', () => {
  test('stores a custom state, and an error in Celery’s form', async () => {
    const task = app.task({ name: 't' }, () => 1)
    const context = new TaskContext(app, task, new Request('me', 't', [1], {}, { group: 'g' }))
    await context.updateState({ state: 'PROGRESS', meta: { done: 1n } })
    expect(FakeResults.last.documents.get('me')).toMatchObject({
      status: 'PROGRESS',
      result: { done: 1 },
      group_id: 'g',
    })
    await context.updateState({ state: 'FAILURE', meta: new TypeError('bad') })
    expect(FakeResults.last.documents.get('me')).toMatchObject({
      result: { exc_type: 'TypeError', exc_message: ['bad'], exc_module: 'builtins' },
    })
  })
})

describe('control', () => {
  test('revoke is broadcast to the mailbox of the workers', async () => {
    await app.AsyncResult('id').revoke({ terminate: true, destination: ['w@h'] })
    expect(FakeBroker.last.messages).toEqual([
      {
        exchange: 'celery.pidbox',
        exchangeType: 'fanout',
        body: {
          method: 'revoke',
          arguments: { task_id: 'id', terminate: true, signal: 'SIGTERM' },
          destination: ['w@h'],
          pattern: null,
          matcher: null,
        },
        headers: { clock: 1, expires: 0 },
      },
    ])
  })
})

test('another control exchange has another mailbox', async () => {
  app.conf.controlExchange = 'mine'
  await app.control.broadcast('ping')
  expect(FakeBroker.last.messages).toMatchObject([{ exchange: 'mine.pidbox', body: { method: 'ping' } }])
})

describe('close', () => {
  test('is done once, and nothing is sent after it', async () => {
    const task = app.task({ name: 't' }, () => 1)
    await task.delay()
    const broker = FakeBroker.last
    await Promise.all([app.close(), app.close()])
    expect(broker.closed).toBe(1)
    await expect(task.delay()).rejects.toMatchObject({ code: 'ERR_CELERIAC_CLOSED' })
    await expect(app.AsyncResult('id').get()).rejects.toMatchObject({ code: 'ERR_CELERIAC_CLOSED' })
  })

  test('settles what the core left without an answer', async () => {
    const task = app.task({ name: 't' }, () => 1)
    await task.delay()
    FakeBroker.last.silent = true
    const outcomes = Promise.allSettled([task.delay(), app.AsyncResult('id').get()])
    await app.close()
    const closed = {
      status: 'rejected',
      reason: expect.objectContaining({ code: 'ERR_CELERIAC_CLOSED' }) as unknown,
    }
    expect(await outcomes).toEqual([closed, closed])
  })

  test('of an app that was never used opens nothing', async () => {
    const opened = FakeBroker.opened.length
    const unused = new Celery({ broker: 'memory://' })
    await unused[Symbol.asyncDispose]()
    expect(FakeBroker.opened).toHaveLength(opened)
  })
})
