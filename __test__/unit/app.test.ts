import { beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery } from '../../lib/app.ts'
import { currentTask } from '../../lib/current-task.ts'
import { Request } from '../../lib/request.ts'
import { AsyncResult } from '../../lib/result.ts'
import { SendManyError } from '../../lib/send-many.ts'
import { sharedTask } from '../../lib/shared-task.ts'
import { TaskContext } from '../../lib/task-context.ts'
import { FakeBroker } from './support/fake-native.ts'

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
