import { once } from 'node:events'

import { beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery } from '../../lib/app.ts'
import { currentTask } from '../../lib/current-task.ts'
import { Ignore, MaxRetriesExceededError, Reject, Retry, SoftTimeLimitExceeded } from '../../lib/errors.ts'
import { configureLogging } from '../../lib/log/logger.ts'
import type { LogRecord } from '../../lib/log/record.ts'
import { type DeliveredRequest, Request } from '../../lib/request.ts'
import { EagerResult } from '../../lib/result.ts'
import { type AnyTask, backoff } from '../../lib/task.ts'
import { type RetryMessage, TaskContext } from '../../lib/task-context.ts'
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

/** Runs a task as a worker does; what it throws is the outcome. */
async function run(
  task: AnyTask,
  args: unknown[] = [],
  kwargs = {},
  wire: DeliveredRequest = {},
): Promise<unknown> {
  const context = new TaskContext(app, task, new Request('id', task.name, args, kwargs, wire))
  try {
    return (await task.run(context, args, kwargs)) as unknown
  } catch (error) {
    return error
  }
}

class Temporary extends Error {}
class Permanent extends Temporary {}

describe('a body', () => {
  test('is the current task, to any depth', async () => {
    const deep = async (): Promise<string | undefined> => {
      await new Promise(setImmediate)
      return currentTask()?.request.id
    }
    expect(await run(app.task({ name: 't' }, deep))).toBe('id')
  })

  test('gets keyword arguments at their places', async () => {
    const task = app.task({ name: 't', params: ['x', 'y', 'z?'] }, (x: number, y: number, z?: number) => [
      x,
      y,
      z,
    ])
    expect(await run(task, [1], { y: 2 })).toEqual([1, 2, undefined])
    expect(await run(task, [], { z: 3, y: 2, x: 1 })).toEqual([1, 2, 3])
    expect(await run(task, [1, 2], { x: 3 })).toEqual(
      new TypeError("t() got multiple values for argument 'x'"),
    )
    expect(await run(task, [], {})).toEqual(
      new TypeError("t() missing 2 required positional arguments: 'x' and 'y'"),
    )
  })

  test('gets undefined where an optional argument is skipped', async () => {
    const task = app.task({ name: 't', params: ['x?', 'y?'] }, (...args: unknown[]) => args)
    expect(await run(task, [], { y: 1 })).toEqual([undefined, 1])
  })

  test('without declared parameters gets keyword arguments as a last object', async () => {
    const task = app.task({ name: 't' }, (...args: unknown[]) => args)
    expect(await run(task, [1], { a: 2 })).toEqual([1, { a: 2 }])
    expect(await run(task, [1], {})).toEqual([1])
  })

  test('a bound one has the context before all', async () => {
    const task = app.task({ name: 't', bind: true, params: ['x'] }, (self, x: number) => [
      self.request.id,
      self.name,
      x,
    ])
    expect(await run(task, [], { x: 1 })).toEqual(['id', 't', 1])
  })

  test('parameters with default values are optional', async () => {
    const task = app.task({ name: 't', params: ['x', 'y'] }, (x: number, y: number = 5) => x + y)
    expect(await run(task, [1])).toBe(6)
  })

  test('parameter names are checked when the task is made', () => {
    expect(() => app.task({ name: 't', params: ['x', 'x'] }, () => 1)).toThrow('twice')
    expect(() => app.task({ name: 'u', params: ['not a name'] }, () => 1)).toThrow("'not a name'")
  })
})

describe('retry', () => {
  const sent = (retry: unknown): RetryMessage => (retry as Retry).sending as RetryMessage

  test('sends the same id with what travelled with it', async () => {
    const task = app.task({ name: 't', bind: true }, (self) => {
      throw self.retry({ countdown: 0, exc: new Temporary('busy') })
    })
    const link = { task: 'next', args: [], kwargs: {}, options: {}, subtask_type: null, immutable: false }
    const outcome = await run(
      task,
      [1],
      { a: 2 },
      {
        retries: 1,
        root_id: 'root',
        parent_id: 'parent',
        group: 'g',
        group_index: 3,
        callbacks: [link],
        chain: [link],
        expires: '2030-01-01T00:00:00+00:00',
        timelimit: [9, 8],
        headers: { mine: 1, 'x-death': [] },
        reply_to: 'me',
        origin: 'gen1@h',
        shadow: 's',
        stamped_headers: ['deploy'],
        stamps: { deploy: 7 },
        priority: 4,
        ignore_result: true,
        delivery_info: { exchange: '', routing_key: 'slow' },
      },
    )
    expect(outcome).toBeInstanceOf(Retry)
    expect(outcome).toMatchObject({
      message: 'Retry in 0s: Error: busy',
      when: 0,
      error: new Temporary('busy'),
    })
    const { prepared } = sent(outcome)
    expect(prepared).toMatchObject({ taskId: 'id', args: '[1]', kwargs: '{"a":2}', ignoreResult: true })
    expect(JSON.parse(prepared?.options ?? '')).toEqual({
      retries: 2,
      root_id: 'root',
      parent_id: 'parent',
      group: 'g',
      group_index: 3,
      callbacks: [link],
      chain: [link],
      expires: '2030-01-01T00:00:00+00:00',
      expiration_ms: expect.any(Number) as number,
      time_limit: [9, 8],
      headers: { mine: 1 },
      reply_to: 'me',
      origin: 'gen1@h',
      shadow: 's',
      stamped_headers: ['deploy'],
      stamps: { deploy: 7 },
      priority: 4,
      ignore_result: true,
    })
    expect(FakeBroker.last.routes[prepared?.route ?? 0]).toMatchObject({ exchange: '', routingKey: 'slow' })
    expect(FakeBroker.last.sent).toEqual([])
  })

  test('goes back through the exchange that it came by', async () => {
    const task = app.task({ name: 't', bind: true }, (self) => self.retry())
    await run(task, [], {}, { delivery_info: { exchange: 'x', routing_key: 'k' } })
    expect(FakeBroker.last.routes.at(-1)).toMatchObject({ exchange: 'x', routingKey: 'k' })
  })

  test('waits for the default delay, or as it says', async () => {
    const task = app.task({ name: 't', bind: true, defaultRetryDelay: 7 }, (self, when: object) =>
      self.retry(when),
    )
    expect(await run(task, [{}])).toMatchObject({ when: 7 })
    expect(await run(task, [{ countdown: 3 }])).toMatchObject({ when: 3, message: 'Retry in 3s' })
    const eta = new Date(Date.UTC(2030, 0, 1))
    const outcome = await run(task, [{ eta }])
    expect(outcome).toMatchObject({ when: eta, message: 'Retry at 2030-01-01T00:00:00.000Z' })
    expect(JSON.parse(sent(outcome).prepared?.options ?? '')).toMatchObject({
      eta: '2030-01-01T00:00:00+00:00',
    })
  })

  test('ends with the error given, or MaxRetriesExceededError', async () => {
    const task = app.task({ name: 't', bind: true }, (self, options: object) => self.retry(options))
    expect(await run(task, [{}], {}, { retries: 2 })).toBeInstanceOf(Retry)
    expect(await run(task, [{}], {}, { retries: 3 })).toMatchObject({
      code: 'ERR_CELERIAC_MAX_RETRIES_EXCEEDED',
      message: "Can't retry t[id] args:[{}] kwargs:{}",
      taskArgs: [{}],
    })
    const unprintable = await run(task, [{ maxRetries: 0 }, 2n ** 64n, NaN])
    expect(unprintable).toMatchObject({
      message: `Can't retry t[id] args:[{"maxRetries": 0}, 18446744073709551616, NaN] kwargs:{}`,
    })
    const exc = new Temporary('busy')
    expect(await run(task, [{ exc }], {}, { retries: 3 })).toBe(exc)
    expect(await run(task, [{ maxRetries: 0 }])).toBeInstanceOf(MaxRetriesExceededError)
    expect(await run(task, [{ maxRetries: null }], {}, { retries: 99 })).toBeInstanceOf(Retry)
    const unlimited = app.task({ name: 'u', bind: true, maxRetries: null }, (self) => self.retry())
    expect(await run(unlimited, [], {}, { retries: 99 })).toBeInstanceOf(Retry)
  })

  test('with other arguments keeps those that they do not replace', async () => {
    const task = app.task(
      { name: 't', bind: true, params: ['x', 'y', 'z?'] },
      (self, x: number, y: number) => {
        if (x === 1) return self.retry({ args: [7] })
        return self.retry({ kwargs: { y: y + 1, z: 9 } })
      },
    )
    expect(sent(await run(task, [], { x: 1, y: 2 }))).toMatchObject({ args: [7], kwargs: { y: 2 } })
    expect(sent(await run(task, [3, 4]))).toMatchObject({ args: [3, 5], kwargs: { z: 9 } })
  })

  test('with throw: false the body goes on, and the message goes out with the settlement', async () => {
    const task = app.task({ name: 't', bind: true }, (self) => {
      const retry = self.retry({ throw: false })
      return [retry instanceof Retry, self.outbox.length]
    })
    expect(await run(task)).toEqual([true, 1])
  })

  test('with arguments that cannot be sent fails with that', async () => {
    const task = app.task({ name: 't', bind: true }, (self) => self.retry({ args: [() => 1] }))
    expect(await run(task)).toMatchObject({ code: 'ERR_CELERIAC_ENCODE' })
  })
})

test('an error of a retry that cannot be sent has the reason of the retry as its cause', async () => {
  const busy = new Temporary('busy')
  const bound = app.task({ name: 'bound', bind: true }, (self) => {
    throw self.retry({ exc: busy, args: [() => 1] })
  })
  expect(await run(bound)).toMatchObject({ code: 'ERR_CELERIAC_ENCODE', cause: busy })
  const options = { name: 'auto', autoretryFor: Temporary, retryKwargs: { priority: 999 } }
  const auto = app.task(options, () => Promise.reject(busy))
  expect(await run(auto)).toMatchObject({ code: 'ERR_CELERIAC_INVALID_ARGUMENT', cause: busy })
})

describe('autoretryFor', () => {
  const failing = (error: unknown, options: object = {}): AnyTask =>
    app.task({ autoretryFor: [Temporary], ...options, name: `t${app.tasks.size}` }, () => {
      throw error
    })

  test('retries those errors, and those only', async () => {
    expect(await run(failing(new Temporary()))).toBeInstanceOf(Retry)
    expect(await run(failing(new Permanent()))).toBeInstanceOf(Retry)
    const other = new Error('x')
    expect(await run(failing(other))).toBe(other)
  })

  test('lets dontAutoretryFor, Ignore, Reject and Retry through', async () => {
    for (const error of [new Permanent(), new Ignore(), new Reject(), new Retry()]) {
      expect(await run(failing(error, { autoretryFor: Error, dontAutoretryFor: Permanent }))).toBe(error)
    }
  })

  test('ends with the error itself', async () => {
    const error = new Temporary()
    expect(await run(failing(error), [], {}, { retries: 3 })).toBe(error)
    expect(await run(failing(error, { retryKwargs: { maxRetries: 1 } }), [], {}, { retries: 1 })).toBe(error)
  })

  test('waits as retryKwargs or retryBackoff say', async () => {
    expect(await run(failing(new Temporary(), { retryKwargs: { countdown: 5 } }))).toMatchObject({ when: 5 })
    const backingOff = { retryBackoff: 2, retryJitter: false }
    expect(await run(failing(new Temporary(), backingOff), [], {}, { retries: 2 })).toMatchObject({ when: 8 })
  })

  test('sees the reason of the signal where an aborted API throws', async () => {
    const reason = new SoftTimeLimitExceeded()
    const abortError = Object.assign(new Error('aborted'), { name: 'AbortError' })
    const attempt = async (options: object, signal: AbortSignal): Promise<unknown> => {
      const task = failing(abortError, options)
      const context = new TaskContext(app, task, new Request('id', task.name, [], {}, {}), {
        signal: { makeSignal: () => signal },
      })
      return task.run(context, [], {}).catch((error: unknown) => error)
    }
    const aborted = AbortSignal.abort(reason)
    expect(await attempt({ autoretryFor: SoftTimeLimitExceeded }, aborted)).toMatchObject({ error: reason })
    const all = { autoretryFor: Error, dontAutoretryFor: SoftTimeLimitExceeded }
    expect(await attempt(all, aborted)).toBe(reason)
    expect(await attempt({ autoretryFor: undefined }, aborted)).toBe(reason)
    expect(await attempt({ autoretryFor: Temporary }, new AbortController().signal)).toBe(abortError)
  })

  test('goes by the limit that the body gave to retry', async () => {
    const error = new Temporary()
    const task = app.task({ name: 't', bind: true, autoretryFor: Temporary }, (self) => {
      return self.retry({ maxRetries: 1, exc: error })
    })
    expect(await run(task, [], {}, { retries: 1 })).toBe(error)
  })
})

test.each([
  [{ retryBackoff: true, retryJitter: false }, 0, 1],
  [{ retryBackoff: true, retryJitter: false }, 3, 8],
  [{ retryBackoff: 2.9, retryJitter: false }, 1, 4],
  [{ retryBackoff: 0.5, retryJitter: false }, 1, 2],
  [{ retryBackoff: 10, retryBackoffMax: 25, retryJitter: false }, 2, 25],
  [{ retryBackoff: true, retryJitter: false }, 2000, 600],
  [{ retryBackoff: 10 }, 0, 5],
])('backoff %j at retry %i', (options, retries, seconds) => {
  expect(backoff(options, retries, () => 0.499)).toBe(seconds)
})

describe('apply', () => {
  test('runs here, handlers and all', async () => {
    const calls: unknown[] = []
    const task = app.task(
      {
        name: 't',
        beforeStart(...args) {
          calls.push(['beforeStart', this.request.isEager, ...args])
        },
        onSuccess(...args) {
          calls.push(['onSuccess', ...args])
        },
        afterReturn(...args) {
          calls.push(['afterReturn', ...args])
        },
      },
      (x: number) => 2 * x,
    )
    const result = await task.apply([2], { taskId: 'me' })
    expect(result).toBeInstanceOf(EagerResult)
    expect(await result.get()).toBe(4)
    expect([result.id, await result.state(), await result.successful()]).toEqual(['me', 'SUCCESS', true])
    expect(calls).toEqual([
      ['beforeStart', true, 'me', [2], {}],
      ['onSuccess', 4, 'me', [2], {}],
      ['afterReturn', 'SUCCESS', 4, 'me', [2], {}],
    ])
    expect(FakeBroker.opened).toEqual([])
  })

  test('keeps a failure in its result, unless it is to throw', async () => {
    const error = new Temporary('x')
    const failures: unknown[] = []
    const task = app.task(
      {
        name: 't',
        onFailure(thrown) {
          failures.push(thrown)
        },
      },
      () => {
        throw error
      },
    )
    const result = await task.apply()
    expect(await result.state()).toBe('FAILURE')
    await expect(result.get()).rejects.toBe(error)
    expect(await result.get({ propagate: false })).toBe(error)
    await expect(task.apply([], { throw: true })).rejects.toBe(error)
    app.conf.taskEagerPropagates = true
    await expect(task.apply()).rejects.toBe(error)
    expect(failures).toEqual([error, error, error])
  })

  test('retries at once', async () => {
    const seen: number[] = []
    const reasons: unknown[] = []
    const task = app.task(
      {
        name: 't',
        bind: true,
        onRetry(reason) {
          reasons.push(reason)
        },
      },
      (self, x: number) => {
        seen.push(self.request.retries)
        if (self.request.retries < 2) throw self.retry({ exc: new Temporary(), args: [x + 1] })
        return x
      },
    )
    expect(await (await task.apply([1])).get()).toBe(3)
    expect(seen).toEqual([0, 1, 2])
    expect(reasons).toEqual([new Temporary(), new Temporary()])
  })

  test('Ignore and Reject have states of their own', async () => {
    const task = app.task({ name: 't' }, (error: Error) => {
      throw error
    })
    expect(await (await task.apply([new Ignore()])).state()).toBe('IGNORED')
    expect(await (await task.apply([new Reject('no', { requeue: true })])).state()).toBe('REJECTED')
  })

  test('runs what is linked', async () => {
    const seen: unknown[] = []
    const note = app.task({ name: 'note' }, (...args: unknown[]) => void seen.push(args))
    const ok = app.task({ name: 'ok' }, () => 1)
    const bad = app.task({ name: 'bad' }, () => Promise.reject(new Error('x')))
    await ok.apply([], { link: note.s('extra'), linkError: note.s('never') })
    await bad.apply([], { taskId: 'bad-id', linkError: note.s('extra') })
    expect(seen).toEqual([
      [1, 'extra'],
      ['bad-id', 'extra'],
    ])
  })

  test('a handler or a link that throws is logged and changes nothing', async () => {
    const lines: string[] = []
    const keep = ({ logger, message }: LogRecord): string => (lines.push(`${logger} ${message}`), '')
    configureLogging({
      level: 'ERROR',
      format: keep,
      taskFormat: keep,
      sink: { write() {}, flush() {}, close() {} },
    })
    const raising = {
      onSuccess: () => Promise.reject(new Error('in onSuccess')),
      onFailure: () => Promise.reject(new Error('in onFailure')),
      afterReturn: () => Promise.reject(new Error('in afterReturn')),
      onRetry: () => Promise.reject(new Error('in onRetry')),
    }
    const unknown = app.signature('not.registered')
    const ok = app.task({ name: 'ok', ...raising }, () => 1)
    const done = await ok.apply([], { taskId: 'a', link: unknown })
    expect([await done.state(), await done.get()]).toEqual(['SUCCESS', 1])
    const bad = app.task({ name: 'bad', bind: true, ...raising }, (self) => {
      if (self.request.retries === 0) throw self.retry({ exc: new Error('again') })
      throw new Error('x')
    })
    const failed = await bad.apply([], { taskId: 'b', linkError: unknown })
    configureLogging(undefined)
    await expect(failed.get()).rejects.toThrow('x')
    expect(lines).toEqual([
      "celery.app.trace Task ok[a] linked task 'not.registered' raised: NotRegistered: no task is registered as not.registered",
      'celery.app.trace Task ok[a] on_success handler raised: Error: in onSuccess',
      'celery.app.trace Task ok[a] after_return handler raised: Error: in afterReturn',
      'celery.app.trace Task bad[b] on_retry handler raised: Error: in onRetry',
      "celery.app.trace Task bad[b] linked task 'not.registered' raised: NotRegistered: no task is registered as not.registered",
      'celery.app.trace Task bad[b] on_failure handler raised: Error: in onFailure',
      'celery.app.trace Task bad[b] after_return handler raised: Error: in afterReturn',
    ])
  })

  test('throws what a link throws when errors are to propagate', async () => {
    app.conf.taskEagerPropagates = true
    const bad = app.task({ name: 'bad' }, () => Promise.reject(new Error('in the link')))
    await expect(app.task({ name: 'ok' }, () => 1).apply([], { link: bad.si() })).rejects.toThrow(
      'in the link',
    )
  })

  test('stores its result when it is to', async () => {
    const task = app.task({ name: 't', storeEagerResult: true }, () => 5)
    const result = await task.apply()
    expect(FakeResults.last.documents.get(result.id)).toMatchObject({ status: 'SUCCESS', result: 5 })
    const plain = app.task({ name: 'plain' }, () => 6)
    const unstored = await plain.apply()
    app.conf.taskStoreEagerResult = true
    const stored = await plain.apply()
    const { documents } = FakeResults.last
    expect([documents.has(unstored.id), documents.has(stored.id)]).toEqual([false, true])
  })

  test('a revoked one says so', async () => {
    const result = await app.task({ name: 't' }, () => 5).apply()
    await result.revoke()
    expect(await result.state()).toBe('REVOKED')
    await expect(result.get()).rejects.toMatchObject({ code: 'ERR_CELERIAC_TASK_REVOKED' })
  })
})

describe('taskAlwaysEager', () => {
  test('runs delay() here, with arguments as they would arrive', async () => {
    app.conf.taskAlwaysEager = true
    const task = app.task({ name: 't' }, (value: unknown) => value)
    const value = { bytes: Buffer.from([255]), big: 2n ** 64n, nan: NaN, gone: undefined }
    const result = await task.delay(value)
    expect(await result.get()).toEqual({ bytes: Buffer.from([255]), big: 2n ** 64n, nan: NaN })
    expect(await (await task.s(1).delay()).get()).toBe(1)
    await expect(task.delay(() => 1)).rejects.toMatchObject({ code: 'ERR_CELERIAC_ENCODE' })
    expect(FakeBroker.opened).toEqual([])
  })

  test('sendTask sends all the same', async () => {
    app.conf.taskAlwaysEager = true
    const warning = once(process, 'warning')
    await app.sendTask('elsewhere')
    expect(FakeBroker.last.sent).toHaveLength(1)
    expect((await warning)[0]).toMatchObject({ code: 'CELERIAC_ALWAYS_EAGER_IGNORED' })
  })
})
