import { getEventListeners } from 'node:events'

import { beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery } from '../../lib/app.ts'
import { Request } from '../../lib/request.ts'
import { AsyncResult } from '../../lib/result.ts'
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
