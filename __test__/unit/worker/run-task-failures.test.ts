import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery } from '../../../lib/app.ts'
import { WorkerLostError } from '../../../lib/errors.ts'
import { configureLogging } from '../../../lib/log/logger.ts'
import type { SignatureDict } from '../../../lib/request.ts'
import { outcomes } from '../../../lib/worker/settle.ts'
import { FakeBroker } from '../support/fake-native.ts'
import { RunnerHarness, type Settled } from '../support/run.ts'

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

describe('a task whose worker was lost too often', () => {
  test('it fails without being run, its errbacks are sent, and its message is poison', async () => {
    const handled: string[] = []
    app.task({ name: 'on_error' }, () => {})
    app.task(
      {
        name: 'deadly',
        onFailure: (error) => {
          handled.push((error as Error).name)
        },
      },
      () => {
        throw new Error('it was run')
      },
    )
    const delivery = worker.delivery('deadly', [], { errbacks: [signature('on_error')] })
    await worker.runner.lose(delivery, new WorkerLostError(5))
    expect(worker.settled).toMatchObject([
      { outcome: outcomes.poison, state: 'FAILURE', publish: [{ task: 'on_error', args: ['id-1'] }] },
    ])
    expect(handled).toEqual(['WorkerLostError'])
    expect(worker.lines).toEqual([expect.stringMatching(/^ERROR Task deadly\[id-1\] raised unexpected: /)])
  })
})

describe('failure', () => {
  test('it is stored in Celery’s form, with the stack, and logged with it', async () => {
    app.task({ name: 'bad' }, () => {
      throw new TypeError('no good')
    })
    expect(await worker.run('bad')).toMatchObject({
      outcome: outcomes.acknowledge,
      state: 'FAILURE',
      result: { exc_type: 'TypeError', exc_message: ['no good'], exc_module: 'builtins' },
      traceback: expect.stringMatching(/^TypeError: no good\n +at /) as string,
    })
    expect(worker.lines).toEqual(["ERROR Task bad[id-1] raised unexpected: TypeError('no good')"])
    expect(worker.records[0]?.stack).toMatch(/^TypeError: no good\n +at /)
  })

  test('an expected error is one line', async () => {
    app.task({ name: 'bad', throws: [RangeError] }, () => {
      throw new RangeError('out')
    })
    expect((await worker.run('bad')).state).toBe('FAILURE')
    expect(worker.lines).toEqual(["INFO Task bad[id-1] raised expected: RangeError('out')"])
    expect(worker.records[0]?.stack).toBeNull()
  })

  test('what is thrown need not be an error', async () => {
    app.task({ name: 'bad' }, () => {
      // oxlint-disable-next-line no-throw-literal
      throw 'text'
    })
    expect((await worker.run('bad')).result).toMatchObject({ exc_message: ['text'] })
  })

  test('a call that params refuse fails with Python’s words', async () => {
    app.task({ name: 'm.add', params: ['x', 'y'] }, (x: number, y: number) => x + y)
    expect((await worker.run('m.add', [1])).result).toMatchObject({
      exc_type: 'TypeError',
      exc_message: ["add() missing 1 required positional argument: 'y'"],
    })
  })

  test('a late message that is not acknowledged on failure is rejected', async () => {
    app.task({ name: 'bad', acksLate: true, acksOnFailure: false }, () => {
      throw new Error('x')
    })
    expect((await worker.run('bad')).outcome).toBe(outcomes.reject)
  })

  test('whether a late message is acknowledged on failure is the task’s to say, then the settings’', async () => {
    const fail = (): never => {
      throw new Error('x')
    }
    app.task({ name: 'plain', acksLate: true }, fail)
    app.task({ name: 'acknowledged', acksLate: true, acksOnFailure: true }, fail)
    app.task({ name: 'early', acksLate: false }, fail)
    const outcomeOf = async (name: string): Promise<number> => (await worker.run(name)).outcome
    expect(await outcomeOf('plain')).toBe(outcomes.acknowledge)
    app.conf.taskAcksOnFailure = false
    expect(await outcomeOf('plain')).toBe(outcomes.reject)
    expect(await outcomeOf('acknowledged')).toBe(outcomes.acknowledge)
    expect(await outcomeOf('early')).toBe(outcomes.acknowledge)
    app.conf.update({ taskAcksOnFailure: null, taskAcksOnFailureOrTimeout: false })
    expect(await outcomeOf('plain')).toBe(outcomes.reject)
  })

  test('an errback of one parameter is sent the task’s id', async () => {
    app.task({ name: 'bad' }, () => {
      throw new Error('x')
    })
    app.task({ name: 'old' }, (_id: string) => {})
    const { publish } = await worker.run('bad', [], {
      errbacks: [signature('old'), signature('elsewhere', [7])],
    })
    expect(publish.map(({ task, args }) => [task, args])).toEqual([
      ['old', ['id-1']],
      ['elsewhere', ['id-1', 7]],
    ])
    expect(publish[0]?.options).toMatchObject({ parent_id: 'id-1' })
  })

  test('an errback of three parameters is called here, and its errors are logged', async () => {
    const seen: unknown[] = []
    app.task({ name: 'bad' }, () => {
      throw new Error('x')
    })
    app.task({ name: 'new' }, (request: { id: string }, error: Error, traceback: string) => {
      seen.push(request.id, error.message, traceback.split('\n')[0])
      throw new Error('again')
    })
    const { publish, state } = await worker.run('bad', [], { errbacks: [signature('new')] })
    expect([publish, state, seen]).toEqual([[], 'FAILURE', ['id-1', 'x', 'Error: x']])
    expect(worker.lines).toContain("ERROR Errback 'new' raised an exception")
  })

  test('a task that is not registered is rejected with NotRegistered', async () => {
    expect(await worker.run('unknown')).toMatchObject({
      outcome: outcomes.reject,
      state: 'FAILURE',
      result: { exc_type: 'NotRegistered', exc_message: ['unknown'] },
    })
    expect(worker.lines).toEqual(["CRITICAL Task unknown[id-1] INTERNAL ERROR: NotRegistered('unknown')"])
  })

  test('whatever a message calls a chain or errbacks, the task fails as it would have, and is acknowledged', async () => {
    app.task({ name: 'bad' }, () => {
      throw new Error('x')
    })
    const chain = [null, 7, 'x', {}, { options: null }, { options: 7 }] as unknown as SignatureDict[]
    for (const what of [{ chain }, { errbacks: chain }]) {
      const settled = await worker.run('bad', [], what)
      expect(settled).toMatchObject({ outcome: outcomes.acknowledge, state: 'FAILURE' })
    }
    expect(worker.lines.filter((line) => line.startsWith('CRITICAL'))).toEqual([])
  })

  test('a typed value that there is no such value of fails the task before its body, and its message is kept', async () => {
    const body = vi.fn<() => void>()
    app.task({ name: 'never' }, body)
    const none = { __type__: 'datetime', __value__: '2026-01-02T03z04:05' }
    expect(await worker.run('never', [none], {}, {}, true)).toMatchObject({
      outcome: outcomes.reject,
      state: 'FAILURE',
    })
    expect(body).not.toHaveBeenCalled()
    expect(worker.lines).toEqual([
      `ERROR Task never[id-1] cannot be read: CeleriacError("'2026-01-02T03z04:05' is no datetime")`,
    ])
  })

  test('tasks further down the chain fail too', async () => {
    const stored: unknown[] = []
    vi.spyOn(app.backend, 'store').mockImplementation((update) => {
      stored.push([update.taskId, update.state])
      return Promise.resolve()
    })
    app.task({ name: 'bad' }, () => {
      throw new Error('x')
    })
    await worker.run('bad', [], {
      chain: [signature('last', [], { options: { task_id: 'last-id' } }), signature('next')],
    })
    expect(stored).toEqual([['last-id', 'FAILURE']])
  })
})

describe('handlers', () => {
  test('they run in Celery’s order, the outcome being settled before all but the first', async () => {
    const order: string[] = []
    const settledYet = (): string => (worker.settled.length > 0 ? 'after' : 'before')
    app.task(
      {
        name: 'watched',
        beforeStart(id) {
          order.push(`beforeStart ${id} ${settledYet()}`)
        },
        onSuccess(result) {
          order.push(`onSuccess ${String(result)} ${settledYet()}`)
        },
        afterReturn(state, result) {
          order.push(`afterReturn ${state} ${String(result)} ${settledYet()}`)
        },
      },
      () => {
        order.push('body')
        return 7
      },
    )
    await worker.run('watched')
    expect(order).toEqual([
      'beforeStart id-1 before',
      'body',
      'onSuccess 7 after',
      'afterReturn SUCCESS 7 after',
    ])
  })

  test('an error in onSuccess is logged and changes nothing', async () => {
    app.task(
      {
        name: 'watched',
        onSuccess() {
          throw new Error('handler')
        },
      },
      () => 1,
    )
    expect((await worker.run('watched')).state).toBe('SUCCESS')
    expect(worker.lines).toContain("ERROR Task watched[id-1] on_success handler raised: Error('handler')")
  })

  test('an error in beforeStart fails the task, whose body does not run', async () => {
    const body = vi.fn<() => void>()
    app.task(
      {
        name: 'watched',
        beforeStart() {
          throw new Error('not yet')
        },
      },
      body,
    )
    expect((await worker.run('watched')).state).toBe('FAILURE')
    expect(body).not.toHaveBeenCalled()
  })

  test('onFailure gets the error, then afterReturn; onRetry no afterReturn', async () => {
    const calls: string[] = []
    app.task(
      {
        name: 'watched',
        bind: true,
        onFailure(error) {
          calls.push(`onFailure ${(error as Error).message}`)
        },
        onRetry(error) {
          calls.push(`onRetry ${(error as Error).message}`)
        },
        afterReturn(state) {
          calls.push(`afterReturn ${state}`)
        },
      },
      (self, retries: boolean) => {
        if (retries) self.retry({ exc: new Error('r') })
        throw new Error('f')
      },
    )
    await worker.run('watched', [false])
    await worker.run('watched', [true])
    expect(calls).toEqual(['onFailure f', 'afterReturn FAILURE', 'onRetry r'])
  })
})

describe('what is thrown and cannot be shown', () => {
  /** Runs a task that throws it; gives its settlement and the handlers that were called. */
  async function failWith(error: unknown): Promise<[settled: Settled, handlers: string[]]> {
    const handlers: string[] = []
    const handler = (name: string) => () => {
      handlers.push(name)
    }
    const options = { onFailure: handler('onFailure'), afterReturn: handler('afterReturn') }
    app.task({ name: 'odd', ...options }, () => {
      throw error
    })
    return [await worker.run('odd'), handlers]
  }

  const trap = (): never => {
    throw new Error('trapped')
  }

  test.each<[string, unknown, unknown, string]>([
    ['a bigint', 10n, [10], 'Error(10)'],
    [
      'a bigint among the arguments of an error',
      Object.assign(new Error('x'), { args: [{ n: 2n }] }),
      [{ n: 2 }],
      'Error({"n": 2})',
    ],
    ['an object without prototype', Object.create(null), [{}], 'Error({})'],
    [
      'a message that throws',
      Object.defineProperty(new Error('x'), 'message', { get: trap }),
      ['<unprintable>'],
      "Error('<unprintable>')",
    ],
  ])('%s: it is stored, logged, and the handlers are called', async (_, error, args, shown) => {
    const [settled, handlers] = await failWith(error)
    expect(settled).toMatchObject({ outcome: outcomes.acknowledge, state: 'FAILURE' })
    expect(settled.result).toMatchObject({ exc_type: 'Error', exc_message: args })
    expect(handlers).toEqual(['onFailure', 'afterReturn'])
    expect(worker.lines).toEqual([`ERROR Task odd[id-1] raised unexpected: ${shown}`])
  })

  test('a proxy that throws whatever is asked of it: the task fails, and the run does not', async () => {
    const throwItself = (): never => {
      throw proxy
    }
    const proxy: unknown = new Proxy({}, { getPrototypeOf: throwItself, get: throwItself })
    const [settled] = await failWith(proxy)
    expect(settled).toMatchObject({
      state: 'FAILURE',
      result: { exc_type: 'Error', exc_message: ['<unprintable>'], exc_module: 'javascript' },
    })
    expect(worker.runner.running.size).toBe(0)
  })

  test('a line that cannot be written changes nothing', async () => {
    const sink = { write: trap, flush() {}, close() {} }
    configureLogging({ level: 'DEBUG', format: () => '', taskFormat: () => '', sink })
    const [settled, handlers] = await failWith(new Error('x'))
    expect(settled).toMatchObject({ state: 'FAILURE', result: { exc_message: ['x'] } })
    expect(handlers).toEqual(['onFailure', 'afterReturn'])
  })
})
