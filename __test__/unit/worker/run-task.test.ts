import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery } from '../../../lib/app.ts'
import { currentTask } from '../../../lib/current-task.ts'
import { Ignore, Reject, Retry, SoftTimeLimitExceeded } from '../../../lib/errors.ts'
import { configureLogging } from '../../../lib/log/logger.ts'
import type { SignatureDict } from '../../../lib/request.ts'
import { outcomes } from '../../../lib/worker/settle.ts'
import { FakeBroker } from '../support/fake-native.ts'
import { RunnerHarness } from '../support/run.ts'

vi.mock(import('../../../lib/native.ts'), async (original) => {
  const fake = await import('../support/fake-native.ts')
  return {
    ...(await original()),
    openNativeBroker: (...args) => fake.FakeBroker.open(...args),
    openNativeResults: (...args) => fake.FakeResults.open(...args),
  }
})

let app: Celery
let worker: RunnerHarness

beforeEach(() => {
  FakeBroker.opened = []
  app = new Celery('proj', { broker: 'memory://', backend: 'cache+memory://' })
  worker = new RunnerHarness(app)
})

afterEach(() => {
  vi.useRealTimers()
  configureLogging(undefined)
})

function signature(task: string, args: unknown[] = [], more: Partial<SignatureDict> = {}): SignatureDict {
  return { task, args, kwargs: {}, options: {}, subtask_type: null, immutable: false, ...more }
}

const celeryException = (type: string, ...args: unknown[]): unknown => ({
  exc_type: type,
  exc_message: args,
  exc_module: 'celery.exceptions',
})

describe('success', () => {
  test('the result is stored and the message acknowledged', async () => {
    app.task({ name: 'add' }, (x: number, y: number) => x + y)
    expect(await worker.run('add', [2, 3])).toMatchObject({
      outcome: outcomes.acknowledge,
      state: 'SUCCESS',
      result: 5,
      traceback: null,
      children: [],
      publish: [],
    })
  })

  test('it is logged in Celery’s words, with the shadow’s name', async () => {
    app.task({ name: 'greet' }, () => 'hi')
    await worker.run('greet', [], { shadow: 'hello' })
    expect(worker.lines).toEqual([
      expect.stringMatching(/^INFO Task hello\[id-1\] succeeded in [\d.]+s: "hi"$/),
    ])
    expect(worker.records[0]).toMatchObject({ logger: 'celery.app.trace', taskId: 'id-1', taskName: 'greet' })
  })

  test('no more of the result is logged than resultreprMaxsize says', async () => {
    app.task({ name: 'long', resultreprMaxsize: 5 }, () => 'abcdefgh')
    expect((await worker.run('long')).result).toBe('abcdefgh')
    expect(worker.lines[0]).toMatch(/s: "abcd$/)
  })

  test('a body without a result stores null', async () => {
    app.task({ name: 'nothing' }, () => {})
    expect((await worker.run('nothing')).result).toBeNull()
  })

  test('a result that JSON has no form for is a failure, EncodeError as in kombu', async () => {
    app.task({ name: 'odd' }, () => ({ f: () => 1 }))
    expect(await worker.run('odd')).toMatchObject({
      state: 'FAILURE',
      result: { exc_type: 'EncodeError', exc_module: 'kombu.exceptions' },
    })
  })

  test('keyword arguments find their places by params, else come last', async () => {
    app.task({ name: 'placed', params: ['x', 'y'] }, (x: number, y: number) => x - y)
    app.task({ name: 'loose' }, (x: number, rest: object) => [x, rest])
    expect((await worker.run('placed', [], {}, { y: 1, x: 3 })).result).toBe(2)
    expect((await worker.run('loose', [1], {}, { a: 2 })).result).toEqual([1, { a: 2 }])
  })

  test('tagged arguments are revived', async () => {
    app.task({ name: 'year' }, (at: Date) => at.getUTCFullYear())
    const tagged = { __type__: 'datetime', __value__: '2020-01-02T03:04:05+00:00' }
    expect((await worker.run('year', [tagged], {}, {}, true)).result).toBe(2020)
  })

  test('a bound body gets its request, and currentTask() is it at any depth', async () => {
    app.task({ name: 'deep', bind: true }, async (self) => {
      await Promise.resolve()
      return [self.request.id, self.request.retries, self.request.hostname, currentTask() === self]
    })
    expect((await worker.run('deep', [], { retries: 2 })).result).toEqual(['id-1', 2, 'celery@test', true])
  })

  test('tasks that a body sends become its children', async () => {
    const other = app.task({ name: 'other' }, () => 1)
    app.task({ name: 'parent' }, async () => {
      await other.delay()
    })
    const { children } = await worker.run('parent')
    const [sent] = FakeBroker.last.sent
    expect(children).toEqual([[[sent?.taskId, null], null]])
    expect(sent?.options).toMatchObject({ parent_id: 'id-1', root_id: 'id-1' })
  })
})

describe('what follows a success', () => {
  test('a link gets the result before its own arguments, and becomes a child', async () => {
    app.task({ name: 'one' }, () => 1)
    const { publish, children } = await worker.run('one', [], {
      callbacks: [signature('next', ['a'])],
      root_id: 'root',
    })
    expect(publish).toHaveLength(1)
    expect(publish[0]).toMatchObject({
      task: 'next',
      args: [1, 'a'],
      options: { parent_id: 'id-1', root_id: 'root' },
    })
    expect(children).toEqual([[[publish[0]?.id, null], null]])
  })

  test('an immutable link gets no result', async () => {
    app.task({ name: 'one' }, () => 1)
    const { publish } = await worker.run('one', [], {
      callbacks: [signature('next', ['a'], { immutable: true })],
    })
    expect(publish[0]?.args).toEqual(['a'])
  })

  test('several links go as one group', async () => {
    app.task({ name: 'one' }, () => 1)
    const { publish, children } = await worker.run('one', [], { callbacks: [signature('a'), signature('b')] })
    expect(publish.map(({ task, options }) => [task, options['group_index']])).toEqual([
      ['a', 0],
      ['b', 1],
    ])
    const [first, second] = publish
    expect(first?.options['group']).toBe(second?.options['group'])
    expect(children).toEqual([
      [
        [first?.options['group'], null],
        [
          [[first?.id, null], null],
          [[second?.id, null], null],
        ],
      ],
    ])
  })

  test('the last of the chain is next, with the rest as its chain', async () => {
    app.task({ name: 'one' }, () => 1)
    const { publish } = await worker.run('one', [], { chain: [signature('third'), signature('second')] })
    expect(publish).toHaveLength(1)
    expect(publish[0]).toMatchObject({ task: 'second', args: [1], options: { chain: [{ task: 'third' }] } })
  })
})

describe('retry', () => {
  test('the same id is sent again with one retry more, to the queue it came from', async () => {
    app.task({ name: 'again', bind: true }, (self) =>
      self.retry({ countdown: 0, exc: new RangeError('later') }),
    )
    const came = {
      retries: 1,
      root_id: 'root',
      parent_id: 'up',
      queue: 'slow',
      headers: { tenant: 'x' },
      priority: 3,
    }
    const settled = await worker.run('again', [1], { ...came, callbacks: [signature('next')] }, { k: 2 })
    expect(settled).toMatchObject({
      outcome: outcomes.acknowledge,
      state: 'RETRY',
      result: { exc_type: 'RangeError', exc_message: ['later'] },
      traceback: expect.stringContaining('RangeError: later') as string,
    })
    expect(settled.publish).toHaveLength(1)
    expect(settled.publish[0]).toMatchObject({
      task: 'again',
      routingKey: 'slow',
      id: 'id-1',
      args: [1],
      kwargs: { k: 2 },
      options: {
        retries: 2,
        root_id: 'root',
        parent_id: 'up',
        headers: { tenant: 'x' },
        callbacks: [{ task: 'next' }],
      },
    })
    expect(worker.lines).toEqual(['INFO Task again[id-1] retry: Retry in 0s: RangeError: later'])
  })

  test('a countdown becomes the time of the next attempt', async () => {
    vi.useFakeTimers({ now: Date.UTC(2030, 0, 1), toFake: ['Date'] })
    app.task({ name: 'again', bind: true }, (self) => self.retry({ countdown: 90 }))
    const { publish, result } = await worker.run('again')
    expect(publish[0]?.options['eta']).toBe('2030-01-01T00:01:30+00:00')
    expect(result).toBeNull()
  })

  test('autoretryFor does it by itself, and stops at maxRetries with the error', async () => {
    app.task({ name: 'auto', autoretryFor: [RangeError], maxRetries: 1, defaultRetryDelay: 0 }, () => {
      throw new RangeError('flaky')
    })
    expect((await worker.run('auto')).state).toBe('RETRY')
    const last = await worker.run('auto', [], { retries: 1 })
    expect(last).toMatchObject({ state: 'FAILURE', result: { exc_type: 'RangeError' }, publish: [] })
  })

  test('with no error to tell, no attempt left is MaxRetriesExceededError', async () => {
    app.task({ name: 'again', bind: true, maxRetries: 0 }, (self) => self.retry())
    expect((await worker.run('again')).result).toMatchObject({
      exc_type: 'MaxRetriesExceededError',
      exc_module: 'celery.exceptions',
    })
  })

  test('a Retry that a body makes itself sends nothing', async () => {
    app.task({ name: 'own' }, () => {
      throw new Retry('mine')
    })
    expect(await worker.run('own')).toMatchObject({ state: 'RETRY', publish: [] })
  })

  test('retry with throw: false sends it, and the body says what came of the task', async () => {
    app.task({ name: 'both', bind: true }, (self) => {
      self.retry({ throw: false, countdown: 0 })
      return 'done'
    })
    const { state, publish } = await worker.run('both')
    expect([state, publish.map(({ id }) => id)]).toEqual(['SUCCESS', ['id-1']])
  })
})

describe('Ignore and Reject', () => {
  test('Ignore acknowledges and stores nothing', async () => {
    app.task({ name: 'skip' }, () => {
      throw new Ignore()
    })
    expect(await worker.run('skip')).toMatchObject({ outcome: outcomes.acknowledge, state: null })
    expect(worker.lines).toEqual(['INFO Task skip[id-1] ignored'])
  })

  test('Reject without requeue stores a FAILURE', async () => {
    app.task({ name: 'refuse' }, () => {
      throw new Reject('bad input')
    })
    expect(await worker.run('refuse')).toMatchObject({
      outcome: outcomes.reject,
      state: 'FAILURE',
      result: { exc_type: 'Reject' },
    })
    expect(worker.lines).toEqual(['WARNING Task refuse[id-1] reject requeue=false: bad input'])
  })

  test('Reject with requeue gives the message back and stores nothing', async () => {
    app.task({ name: 'refuse' }, () => {
      throw new Reject('busy', { requeue: true })
    })
    expect(await worker.run('refuse')).toMatchObject({ outcome: outcomes.requeue, state: null })
  })
})

describe('limits, revokes, shutdown', () => {
  const untilAborted = (signal: AbortSignal): Promise<never> =>
    new Promise((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason as Error))
    })

  test('the soft time limit fires the signal, and its error is a failure of billiard’s', async () => {
    app.task({ name: 'slow', bind: true, softTimeLimit: 0.01 }, (self) => untilAborted(self.signal))
    expect(await worker.run('slow')).toMatchObject({
      state: 'FAILURE',
      result: { exc_type: 'SoftTimeLimitExceeded', exc_module: 'billiard.exceptions' },
    })
    expect(worker.lines[0]).toBe('WARNING Soft time limit (0.01s) exceeded for slow[id-1]')
  })

  test('the message’s limit goes before the task’s, the worker’s comes last', async () => {
    worker = new RunnerHarness(app, 0.02)
    app.task({ name: 'slow', bind: true }, (self) => untilAborted(self.signal))
    await worker.run('slow')
    await worker.run('slow', [], { timelimit: [null, 0.01] })
    expect(worker.lines.filter((line) => line.startsWith('WARNING'))).toEqual([
      'WARNING Soft time limit (0.02s) exceeded for slow[id-1]',
      'WARNING Soft time limit (0.01s) exceeded for slow[id-2]',
    ])
  })

  test('an AbortError stands for the reason of the signal', async () => {
    app.task({ name: 'slow', bind: true, softTimeLimit: 0.01 }, async (self) => {
      await untilAborted(self.signal).catch((cause: unknown) => {
        throw Object.assign(new Error('The operation was aborted', { cause }), { name: 'AbortError' })
      })
    })
    expect((await worker.run('slow')).result).toMatchObject({ exc_type: 'SoftTimeLimitExceeded' })
  })

  test('a body may catch the limit and succeed', async () => {
    app.task({ name: 'slow', bind: true, softTimeLimit: 0.01 }, (self) =>
      untilAborted(self.signal).catch((error: unknown) => error instanceof SoftTimeLimitExceeded),
    )
    expect(await worker.run('slow')).toMatchObject({ state: 'SUCCESS', result: true })
  })

  test('a revoke with terminate ends the task as REVOKED', async () => {
    app.task({ name: 'slow', bind: true }, (self) => untilAborted(self.signal))
    const delivery = worker.delivery('slow')
    const run = worker.runner.run(delivery)
    worker.runner.terminate(['id-1', 'another'])
    await run
    expect(worker.settled).toMatchObject([
      {
        outcome: outcomes.acknowledge,
        state: 'REVOKED',
        result: celeryException('TaskRevokedError', 'terminated'),
      },
    ])
  })

  test('a body that is done in spite of a revoke has its result', async () => {
    app.task({ name: 'deaf' }, async () => {
      await new Promise((resolve) => setImmediate(resolve))
      return 1
    })
    const run = worker.runner.run(worker.delivery('deaf'))
    worker.runner.terminate(['id-1'])
    await run
    expect(worker.settled).toMatchObject([{ state: 'SUCCESS', result: 1 }])
  })

  test('a cold shutdown requeues late messages, and what the bodies do then changes nothing', async () => {
    app.task({ name: 'slow', bind: true, acksLate: true }, (self) => untilAborted(self.signal))
    const run = worker.runner.run(worker.delivery('slow'))
    await Promise.resolve()
    worker.runner.cancelAll(new Error('shutdown'))
    await run
    expect(worker.settled).toMatchObject([{ outcome: outcomes.requeue, state: null }])
    expect(worker.lines).toEqual([])
  })

  test('a cold shutdown stores RETRY for a message that was acknowledged early', async () => {
    app.task({ name: 'slow', bind: true, acksLate: false }, (self) => untilAborted(self.signal))
    const run = worker.runner.run(worker.delivery('slow'))
    await Promise.resolve()
    worker.runner.cancelAll(new Error('shutdown'))
    await run
    expect(worker.settled).toMatchObject([{ outcome: outcomes.acknowledge, state: 'RETRY' }])
  })
})

test('deliveries that end in one turn are settled in one batch', async () => {
  app.task({ name: 'quick' }, () => 1)
  await Promise.all([1, 2, 3].map(() => worker.runner.run(worker.delivery('quick'))))
  expect(worker.batches).toEqual([])
  await new Promise((resolve) => setImmediate(resolve))
  expect(worker.batches).toHaveLength(1)
  expect(worker.settled).toHaveLength(3)
})
