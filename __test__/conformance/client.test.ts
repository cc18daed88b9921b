import { randomUUID } from 'node:crypto'
import { Celery, Decimal, PyFloat, SendManyError, TaskError, Worker } from 'celeriac'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

import type { StateUpdate } from '../../lib/results/store.ts'
import { until } from '../support/wait.ts'

let app: Celery
/** A task id of each test's own: what is in memory is shared by all apps of a process. */
let id: string

beforeEach(() => {
  id = randomUUID()
  app = new Celery('proj', {
    broker: 'memory://',
    backend: 'cache+memory://',
    taskDefaultQueue: `default-${id}`,
  })
})

afterEach(() => app.close())

/** Stores a result as a worker does. */
async function store(
  taskId: string,
  state: string,
  result: unknown,
  more: Partial<StateUpdate> = {},
): Promise<void> {
  await app.backend.store({ taskId, state, result, ...more })
}

describe('messages', () => {
  test('are with the broker once delay() resolves', async () => {
    const add = app.task({ name: 'add' }, (x: number, y: number) => x + y)
    await add.delay(2, 3)
    await add.applyAsync([2, 3], { queue: 'fast' })
    expect(await app.broker.queueLength(app.conf.taskDefaultQueue)).toBe(1)
    expect(await app.broker.queueLength('fast')).toBe(1)
  })

  test('go out in any number at once', async () => {
    const add = app.task({ name: 'add' }, (x: number, y: number) => x + y)
    const results = await Promise.all(Array.from({ length: 2000 }, (_, index) => add.delay(index, 1)))
    expect(new Set(results.map(({ id }) => id)).size).toBe(2000)
    expect(await app.broker.purge(app.conf.taskDefaultQueue)).toBe(2000)
    expect(await app.broker.queueLength(app.conf.taskDefaultQueue)).toBe(0)
  })

  test('of delayMany are all there once it resolves, in their order', async () => {
    const add = app.task({ name: 'add' }, (x: number, _text: string) => x)
    const long = 'é\n"\u2028'.repeat(2000)
    const results = await add.delayMany(Array.from({ length: 3000 }, (_, index) => [index, long]))
    expect(new Set(results.map(({ id }) => id)).size).toBe(3000)
    expect(await app.broker.queueLength(app.conf.taskDefaultQueue)).toBe(3000)
    const ran: number[] = []
    const texts = new Set<string>()
    const body = (x: number, text: string): void => {
      ran.push(x)
      texts.add(text)
    }
    const other = new Celery('proj', { broker: 'memory://', taskDefaultQueue: app.conf.taskDefaultQueue })
    other.task({ name: 'add' }, body)
    const worker = new Worker(other, { concurrency: 1 })
    await worker.start()
    await until(60, 'the last of all', () => ran.length === 3000)
    await other.close()
    expect(ran).toEqual(Array.from({ length: 3000 }, (_, index) => index))
    expect([...texts]).toEqual([long])
  })

  test('of delayMany that reach no queue are named', async () => {
    const add = app.task({ name: 'add' }, (x: number) => x)
    const sending = add.applyAsyncMany([[1], [2]], { exchange: `nowhere-${id}`, routingKey: 'x' })
    const error = (await sending.catch((thrown: unknown) => thrown)) as SendManyError
    expect(error).toBeInstanceOf(SendManyError)
    expect(error.failures).toEqual(
      [0, 1].map((index) => ({
        index,
        error: expect.objectContaining({ code: 'ERR_CELERIAC_UNROUTABLE' }) as Error,
      })),
    )
  })

  test('with every option there is are taken by the core', async () => {
    await app.sendTask('t', [NaN, 2n ** 64n, new PyFloat(1), Buffer.from([255])], {
      kwargs: { price: new Decimal('1.10') },
      countdown: 5,
      expires: 60,
      taskId: 'my-id',
      retry: false,
      retryPolicy: { maxRetries: null, intervalStart: 0 },
      link: app.signature('next'),
      linkError: [app.signature('oops')],
      shadow: 's',
      timeLimit: 10,
      softTimeLimit: 5,
      queue: 'q',
      priority: 3,
      deliveryMode: 'transient',
      headers: { trace: NaN },
      properties: { app_id: 'x' },
      ignoreResult: false,
      replyTo: 'me',
      groupId: 'g',
      groupIndex: 0,
      chord: app.signature('body'),
      chain: [app.signature('last')],
      rootId: 'r',
      parentId: 'p',
      retries: 1,
      origin: 'here',
      replacedTaskNesting: 1,
      argsrepr: '(…)',
      kwargsrepr: '{…}',
      stamps: { deploy: 7 },
    })
    expect(await app.broker.queueLength('q')).toBe(1)
  })

  test('to a topic exchange reach the queues that are bound to it', async () => {
    app.conf.taskQueues = { logs: { exchange: 'events', exchangeType: 'topic', routingKey: 'log.#' } }
    app.conf.taskRoutes = { 'log.*': { queue: 'logs', routingKey: 'log.info' } }
    await app.sendTask('log.write')
    expect(await app.broker.queueLength('logs')).toBe(1)
  })

  test('of remote control are taken', async () => {
    await expect(app.AsyncResult(id).revoke()).resolves.toBeUndefined()
  })
})

describe('results', () => {
  test('wake who waits for them', async () => {
    const waiting = app.AsyncResult(id).get({ timeout: 10 })
    await store(id, 'SUCCESS', { total: 5, numbers: [NaN, 2n ** 64n] })
    expect(await waiting).toEqual({ total: 5, numbers: [NaN, 2n ** 64n] })
  })

  test('that are there already are given at once', async () => {
    await store(id, 'SUCCESS', null)
    const result = app.AsyncResult(id)
    expect(await result.get({ timeout: 0 })).toBeNull()
    expect(await result.dateDone()).toBeInstanceOf(Date)
  })

  test('a failure arrives as data', async () => {
    await store(id, 'FAILURE', Object.assign(new TypeError('bad'), { args: ['bad', new Decimal('1.10')] }), {
      traceback: 'Traceback …',
    })
    const error: unknown = await app
      .AsyncResult(id)
      .get({ timeout: 10 })
      .catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(TaskError)
    expect(error).toMatchObject({
      type: 'TypeError',
      module: 'builtins',
      args: ['bad', new Decimal('1.10')],
      traceback: 'Traceback …',
      taskId: id,
    })
  })

  test('states before the end are seen, and do not end a wait', async () => {
    const result = app.AsyncResult(id)
    await store(id, 'PROGRESS', { done: 1 })
    expect([await result.state(), await result.info(), await result.ready()]).toEqual([
      'PROGRESS',
      { done: 1 },
      false,
    ])
    await expect(result.get({ timeout: 0.05 })).rejects.toMatchObject({ code: 'ERR_CELERIAC_TIMEOUT' })
    await store(id, 'SUCCESS', 1)
    expect(await result.get({ timeout: 10 })).toBe(1)
  })

  test('children and parent ids are kept', async () => {
    await store(id, 'SUCCESS', 1, { children: [app.AsyncResult('child').asTuple()] })
    expect((await app.AsyncResult(id).children())?.map(String)).toEqual(['child'])
  })

  test('that are forgotten are unknown', async () => {
    await store(id, 'SUCCESS', 1)
    const result = app.AsyncResult(id)
    expect(await result.exists()).toBe(true)
    await result.forget()
    expect(await result.exists()).toBe(false)
    expect(await result.state()).toBe('PENDING')
  })

  test('thousands of waits are woken, each by its own', async () => {
    const ids = Array.from({ length: 2000 }, (_, index) => `${id}-${index}`)
    const waits = Promise.all(ids.map((one) => app.AsyncResult(one).get({ timeout: 15 })))
    await Promise.all(ids.map((one) => store(one, 'SUCCESS', one)))
    expect(await waits).toEqual(ids)
  })

  test('waits end when the app is closed', async () => {
    const outcome = Promise.allSettled([app.AsyncResult(id).get()])
    await app.backend.get([id])
    await app.close()
    expect(await outcome).toMatchObject([{ status: 'rejected', reason: { code: 'ERR_CELERIAC_CLOSED' } }])
  })
})
