import { beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery } from '../../../lib/app.ts'
import { Deferred } from '../../../lib/worker/deferred.ts'
import { Worker } from '../../../lib/worker/worker.ts'
import type { NativeWorker, NativeWorkerOptions } from '#native'

vi.mock(import('../../../lib/native.ts'), async (original) => {
  const fake = await import('../support/fake-native.ts')
  return {
    ...(await original()),
    openNativeBroker: (...args) => fake.FakeBroker.open(...args),
    openNativeResults: (...args) => fake.FakeResults.open(...args),
    setNativeLogger: () => {},
  }
})

/** Stands for the core's worker: gives out what a test puts in, and ends when it was stopped and all is settled. */
class FakeNativeWorker {
  readonly settled: unknown[][] = []
  readonly calls: string[] = []
  #batches: Array<unknown[]> = []
  #wake = new Deferred<void>()
  #outstanding = 0
  #stopped = false

  give(...items: unknown[][]): void {
    this.#batches.push(items)
    const tasks = items.filter(([tag]) => typeof tag === 'number' || tag === 'redelivered')
    this.#outstanding += tasks.length
    this.#wake.resolve()
  }

  start(): Promise<void> {
    return Promise.resolve()
  }

  async next(): Promise<string | null> {
    for (;;) {
      const batch = this.#batches.shift()
      if (batch !== undefined) return batch.map((item) => this.#lines(item as unknown[])).join('')
      if (this.#stopped && this.#outstanding === 0) return null
      this.#wake = new Deferred()
      await this.#wake.promise
    }
  }

  /** An item as the core writes it: a task with a slot, where it may begin unless it has gone back. */
  #lines(item: unknown[]): string {
    if (item[0] === 'redelivered') return taskLines(item[1] as unknown[], 0, 4)
    if (typeof item[0] !== 'number') return `${JSON.stringify(item)}\n`
    this.#slots[item[0]] = this.gone.has(item[0]) ? -1 : item[0] * 2
    return taskLines(item, item[0], 0)
  }

  readonly #slots = new Int32Array(100)

  slots(): Int32Array {
    return this.#slots
  }

  leaseLeft(): number {
    return 1000
  }

  settle(batch: string): void {
    const items = batch
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown[])
    this.settled.push(...items)
    this.#outstanding -= items.length
    this.#wake.resolve()
  }

  /** How often the bodies of redelivered tasks have begun, by tag. */
  readonly begun = new Map<number, number>()

  /** Tags of tasks that went back before their bodies began. */
  readonly gone = new Set<number>()

  begin(tag: number): boolean {
    return !this.gone.has(tag)
  }

  beginAgain(tag: number): Promise<number> {
    this.calls.push(`begin ${tag}`)
    return Promise.resolve(this.begun.get(tag) ?? 0)
  }

  beat(): void {}

  stop(): Promise<void> {
    this.calls.push('stop')
    this.#stopped = true
    this.#wake.resolve()
    return Promise.resolve()
  }

  /** The core ends although nobody asked for it. */
  endByItself(): void {
    this.#stopped = true
    this.#outstanding = 0
    this.#wake.resolve()
  }

  close(): Promise<void> {
    this.calls.push('close')
    return Promise.resolve()
  }
}

function taskLines([tag, name, id, args, kwargs, , request]: unknown[], slot: number, flags: number): string {
  return `${JSON.stringify([tag, name, id, args, kwargs, flags, slot])}\n${JSON.stringify(request)}\n`
}

let app: Celery
let core: FakeNativeWorker
let opened: NativeWorkerOptions | undefined

beforeEach(() => {
  app = new Celery('proj', { broker: 'memory://' })
  core = new FakeNativeWorker()
})

function newWorker(options: ConstructorParameters<typeof Worker>[1] = {}): Worker {
  return new Worker(app, options, (_app, native) => {
    opened = native
    return core as unknown as NativeWorker
  })
}

test('a core that ends by itself is a failure of its worker', async () => {
  const worker = newWorker()
  await worker.start()
  const finished = expect(worker.finished()).rejects.toMatchObject({ code: 'ERR_CELERIAC_INTERNAL' })
  core.endByItself()
  await finished
  await worker.terminate()
  expect(core.calls).toContain('close')
})

describe('what the core is told', () => {
  test('100 tasks at once, four times as many held, the default queue', async () => {
    app.task({ name: 'a', acksLate: false, ignoreResult: true }, () => 1)
    await using worker = newWorker({ hostname: 'w@%h' })
    await worker.start()
    expect(opened).toMatchObject({
      hostname: worker.hostname,
      concurrency: 100,
      prefetch: 400,
      queues: [{ name: 'celery' }],
      tasks: [{ name: 'a', acksLate: false, ignoreResult: true, trackStarted: false }],
      acceptContent: ['application/json'],
      controlExchange: 'celery',
    })
    expect(worker.hostname).toMatch(/^w@/)
  })

  test('options go before settings', async () => {
    app.conf.update({ workerConcurrency: 7, workerPrefetchMultiplier: 2 })
    expect(newWorker()).toMatchObject({ concurrency: 7, prefetch: 14 })
    expect(newWorker({ concurrency: 3, prefetchMultiplier: 0 })).toMatchObject({
      concurrency: 3,
      prefetch: 0,
    })
  })

  test('solo runs one at a time whatever -c says', () => {
    expect(newWorker({ pool: 'solo', concurrency: 8 })).toMatchObject({ concurrency: 1, prefetch: 4 })
  })

  test('queues are chosen and excluded by name', () => {
    const names = (worker: Worker): string[] => worker.queues.map(({ name }) => name)
    expect(names(newWorker({ queues: ['a', 'b', 'a'], excludeQueues: ['b'] }))).toEqual(['a'])
    expect(() => newWorker({ queues: ['a'], excludeQueues: ['a'] })).toThrow(
      expect.objectContaining({ code: 'ERR_CELERIAC_INVALID_ARGUMENT' }),
    )
  })

  test('without a choice all declared queues are consumed, but those excluded', () => {
    app.conf.taskQueues = { a: {}, b: {}, c: {} }
    expect(newWorker({ excludeQueues: ['b'] }).queues.map(({ name }) => name)).toEqual(['a', 'c'])
  })

  test('the settings of the app, in milliseconds and MIME types', async () => {
    app.conf.update({
      acceptContent: ['json', 'application/x-yaml'],
      brokerConnectionRetry: false,
      brokerConnectionMaxRetries: 7,
      resultExpires: 60,
      resultExtended: true,
      taskIgnoreResult: true,
      taskStoreErrorsEvenIfIgnored: true,
      taskTrackStarted: true,
      taskAcksLate: false,
      workerEnableRemoteControl: false,
      workerEtaTaskLimit: 9,
    })
    app.task({ name: 'a' }, () => 1)
    await using worker = newWorker()
    await worker.start()
    expect(opened).toMatchObject({
      acceptContent: ['application/json', 'application/x-yaml'],
      connectionRetry: false,
      connectionRetryOnStartup: false,
      connectionMaxRetries: 7,
      resultExpiresMs: 60_000,
      resultExtended: true,
      tasks: [
        {
          name: 'a',
          acksLate: false,
          ignoreResult: true,
          storeErrorsEvenIfIgnored: true,
          trackStarted: true,
        },
      ],
      controlExchange: null,
      etaTaskLimit: 9,
    })
  })

  test('the pool and its size are those of the settings where they are set', () => {
    expect(newWorker().poolDefinition.name).toBe('async')
    app.conf.workerPool = 'solo'
    expect(newWorker().poolDefinition.name).toBe('solo')
    expect(newWorker({ pool: 'gevent' }).poolDefinition.name).toBe('async')
  })

  test('a concurrency of nothing is refused', () => {
    expect(() => newWorker({ concurrency: 0 })).toThrow(
      expect.objectContaining({ code: 'ERR_CELERIAC_INVALID_ARGUMENT' }),
    )
  })
})

describe('life', () => {
  test('a warm stop waits for what runs, settles it, then closes', async () => {
    const gate = new Deferred<number>()
    app.task({ name: 'slow' }, () => gate.promise)
    const worker = newWorker()
    await worker.start()
    core.give([1, 'slow', 'id', [], {}, false, {}])
    await vi.waitFor(() => expect(worker.active).toBe(1))
    const stopped = worker.stop()
    await Promise.resolve()
    expect(core.calls).toEqual(['stop'])
    gate.resolve(9)
    await stopped
    expect(core.settled).toEqual([[1, 0, 'SUCCESS', 9, null, [], null]])
    expect(core.calls).toEqual(['stop', 'close'])
    await worker.finished()
  })

  test('an end by force hands back what runs and does not wait for it', async () => {
    app.task({ name: 'stuck' }, () => new Promise(() => {}))
    const worker = newWorker()
    await worker.start()
    core.give([1, 'stuck', 'id', [], {}, false, {}])
    await vi.waitFor(() => expect(worker.active).toBe(1))
    await worker.terminate()
    expect(core.settled).toEqual([[1, 2, null, null, null, [], null]])
    expect(core.calls).toEqual(['stop', 'close'])
  })

  test('a redelivered task is counted before it begins, and fails as lost once it has begun too often', async () => {
    const ran: string[] = []
    app.task({ name: 'again' }, (what: string) => {
      ran.push(what)
    })
    app.conf.maxDeliveries = 3
    const worker = newWorker()
    await worker.start()
    expect(opened).toMatchObject({ maxDeliveries: 3 })
    core.begun.set(1, 3)
    core.begun.set(2, 4)
    core.give(
      ['redelivered', [1, 'again', 'one', ['last chance'], {}, false, {}]],
      ['redelivered', [2, 'again', 'two', ['too often'], {}, false, {}]],
    )
    await vi.waitFor(() => expect(core.settled).toHaveLength(2))
    expect(core.calls).toEqual(['begin 1', 'begin 2'])
    expect(ran).toEqual(['last chance'])
    expect(core.settled.find(([tag]) => tag === 1)?.slice(1, 3)).toEqual([0, 'SUCCESS'])
    expect(core.settled.find(([tag]) => tag === 2)?.slice(1, 4)).toEqual([
      4,
      'FAILURE',
      {
        exc_type: 'WorkerLostError',
        exc_message: [expect.stringContaining('maxDeliveries is 3')],
        exc_module: 'billiard.exceptions',
      },
    ])
    await worker.terminate()
  })

  test('what went back to its queue before its turn came is not begun', async () => {
    const ran: number[] = []
    app.task({ name: 'run' }, (number: number) => {
      ran.push(number)
    })
    const worker = newWorker()
    await worker.start()
    core.gone.add(2)
    core.give(...[1, 2, 3].map((tag) => [tag, 'run', `id-${tag}`, [tag], {}, false, {}]))
    await vi.waitFor(() => expect(core.settled).toHaveLength(2))
    expect(ran).toEqual([1, 3])
    await worker.terminate()
  })

  test('a redelivered task that is no longer ours is not begun', async () => {
    let ran = false
    app.task({ name: 'again' }, () => {
      ran = true
    })
    const worker = newWorker()
    await worker.start()
    core.give(['redelivered', [1, 'again', 'one', [], {}, false, {}]])
    await vi.waitFor(() => expect(core.calls).toEqual(['begin 1']))
    await worker.terminate()
    expect([ran, core.settled]).toEqual([false, []])
  })

  test('a revoke with terminate reaches the body; one without does not', async () => {
    const aborted: string[] = []
    app.task({ name: 'listening', bind: true }, (self, name: string) => {
      return new Promise((_, reject) => {
        self.signal.addEventListener('abort', () => {
          aborted.push(name)
          reject(self.signal.reason as Error)
        })
      })
    })
    const worker = newWorker()
    await worker.start()
    core.give(
      [1, 'listening', 'one', ['one'], {}, false, {}],
      [2, 'listening', 'two', ['two'], {}, false, {}],
    )
    await vi.waitFor(() => expect(worker.active).toBe(2))
    core.give(['revoke', ['one'], false, 'SIGTERM'], ['revoke', ['two'], true, 'SIGTERM'])
    await vi.waitFor(() => expect(core.settled).toHaveLength(1))
    expect(aborted).toEqual(['two'])
    expect(core.settled[0]?.slice(0, 3)).toEqual([2, 0, 'REVOKED'])
    await worker.terminate()
  })

  test('remote control ends it warmly', async () => {
    const worker = newWorker()
    await worker.start()
    core.give(['shutdown'])
    await worker.finished()
    await vi.waitFor(() => expect(core.calls).toEqual(['stop', 'close']))
  })

  test('it starts once', async () => {
    await using worker = newWorker()
    await worker.start()
    await expect(worker.start()).rejects.toMatchObject({ code: 'ERR_CELERIAC_INVALID_ARGUMENT' })
  })

  test('a core that cannot go on is told by finished()', async () => {
    const worker = newWorker()
    vi.spyOn(core, 'next').mockRejectedValue(
      Object.assign(new Error('gone'), { code: 'ERR_CELERIAC_BROKER_UNAVAILABLE' }),
    )
    await worker.start()
    await expect(worker.finished()).rejects.toMatchObject({ code: 'ERR_CELERIAC_BROKER_UNAVAILABLE' })
  })

  test('a stop before the start does nothing, and a start after the stop is refused', async () => {
    const worker = newWorker()
    await worker.stop()
    await worker.terminate()
    await worker.start()
    await worker.stop()
    expect(core.calls).toEqual(['stop', 'close'])
    await expect(worker.start()).rejects.toMatchObject({ code: 'ERR_CELERIAC_CLOSED' })
  })

  test('an end by force ends a stop that waits for a body which never ends, and the stops after it', async () => {
    app.task({ name: 'stuck' }, () => new Promise(() => {}))
    const worker = newWorker()
    await worker.start()
    core.give([1, 'stuck', 'id', [], {}, false, {}])
    await vi.waitFor(() => expect(worker.active).toBe(1))
    const stopped = worker.stop()
    await worker.terminate()
    await stopped
    await worker.stop()
    await worker.finished()
    expect(core.calls.filter((name) => name === 'close')).toHaveLength(1)
  })

  test('a start that failed is told by finished(), closes the core, and can be made again', async () => {
    const worker = newWorker()
    const start = vi
      .spyOn(core, 'start')
      .mockRejectedValueOnce(
        Object.assign(new Error('wrong password'), { code: 'ERR_CELERIAC_AUTHENTICATION_FAILED' }),
      )
    const code = 'ERR_CELERIAC_AUTHENTICATION_FAILED'
    await expect(worker.start()).rejects.toMatchObject({ code })
    await expect(worker.finished()).rejects.toMatchObject({ code })
    expect(core.calls).toEqual(['close'])
    core = new FakeNativeWorker()
    await worker.start()
    expect(start).toHaveBeenCalledOnce()
    await worker.stop()
    await worker.finished()
    expect(core.calls).toEqual(['stop', 'close'])
  })

  test('a stop while it starts ends the start, and it takes nothing', async () => {
    const worker = newWorker()
    const connected = new Deferred<void>()
    vi.spyOn(core, 'start').mockReturnValue(connected.promise)
    const next = vi.spyOn(core, 'next')
    const started = worker.start()
    await worker.stop()
    connected.resolve()
    await expect(started).rejects.toMatchObject({ code: 'ERR_CELERIAC_CLOSED' })
    expect(next).not.toHaveBeenCalled()
    await worker.finished()
  })

  test('closing the app stops its worker first', async () => {
    const gate = new Deferred<number>()
    app.task({ name: 'slow' }, () => gate.promise)
    const worker = newWorker()
    await worker.start()
    const broker = vi.spyOn(app.broker, 'close').mockImplementation(() => {
      core.calls.push('broker')
      return Promise.resolve()
    })
    core.give([1, 'slow', 'id', [], {}, false, {}])
    await vi.waitFor(() => expect(worker.active).toBe(1))
    const closed = app.close()
    gate.resolve(9)
    await closed
    expect(broker).toHaveBeenCalledOnce()
    expect(core.settled).toEqual([[1, 0, 'SUCCESS', 9, null, [], null]])
    expect(core.calls).toEqual(['stop', 'close', 'broker'])
    await worker.finished()
  })

  test('a worker that has ended is no business of the app any more', async () => {
    const worker = newWorker()
    await worker.start()
    await worker.stop()
    const stop = vi.spyOn(worker, 'stop')
    await app.close()
    expect(stop).not.toHaveBeenCalled()
  })

  test('a task that is failed from outside goes to the dead list, and its body changes nothing', async () => {
    const gate = new Deferred<number>()
    app.task({ name: 'slow' }, () => gate.promise)
    const worker = newWorker()
    await worker.start()
    core.give([1, 'slow', 'id', [], {}, false, {}])
    await vi.waitFor(() => expect(worker.active).toBe(1))
    worker.failTask('id', new TypeError('x'))
    gate.resolve(9)
    await worker.stop()
    expect(core.settled).toHaveLength(1)
    expect(core.settled[0]?.slice(0, 4)).toEqual([
      1,
      1,
      'FAILURE',
      { exc_type: 'TypeError', exc_message: ['x'], exc_module: 'builtins' },
    ])
  })
})
