import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { configureLogging } from '../../../lib/log/logger.ts'
import { Deferred } from '../../../lib/worker/deferred.ts'
import { Shutdown, type ShutdownOptions } from '../../../lib/worker/shutdown.ts'

class FakeWorker {
  active = 1
  readonly calls: string[] = []
  readonly stopped = new Deferred<void>()
  readonly terminated = new Deferred<void>()

  stop(): Promise<void> {
    this.calls.push('stop')
    return this.stopped.promise
  }

  terminate(): Promise<void> {
    this.calls.push('terminate')
    return this.terminated.promise
  }

  cancelActive(): void {
    this.calls.push('cancelActive')
  }
}

let worker: FakeWorker
const exits: number[] = []
const said: string[] = []

function shutdownWith(options: Partial<ShutdownOptions> = {}): Shutdown {
  return new Shutdown(worker, {
    softTimeout: 0,
    softOnIdle: false,
    remapSigterm: false,
    say: (line) => said.push(line),
    exit: (code) => exits.push(code),
    ...options,
  })
}

beforeEach(() => {
  worker = new FakeWorker()
  exits.length = 0
  said.length = 0
  vi.useFakeTimers()
  configureLogging({
    level: 'CRITICAL',
    format: () => '',
    taskFormat: () => '',
    sink: { write() {}, flush() {}, close() {} },
  })
})

afterEach(() => {
  vi.useRealTimers()
  configureLogging(undefined)
})

describe('warm', () => {
  test('SIGTERM waits for what runs and ends with 0', async () => {
    const shutdown = shutdownWith()
    expect(shutdown.requested).toBe(false)
    shutdown.handle('SIGTERM')
    expect(shutdown.requested).toBe(true)
    worker.stopped.resolve()
    expect(await shutdown.ended).toBe(0)
    expect(worker.calls).toEqual(['stop'])
  })

  test('the first SIGINT does the same, tells what a second does, and ends with 1', async () => {
    const shutdown = shutdownWith()
    shutdown.handle('SIGINT')
    expect(said[0]).toContain('Ctrl+C again')
    worker.stopped.resolve()
    expect(await shutdown.ended).toBe(1)
    expect(worker.calls).toEqual(['stop'])
  })

  test('remote control ends with 0', async () => {
    const shutdown = shutdownWith()
    shutdown.stop()
    worker.stopped.resolve()
    expect(await shutdown.ended).toBe(0)
  })

  test('a stop that fails is told', async () => {
    const shutdown = shutdownWith()
    shutdown.handle('SIGTERM')
    worker.stopped.reject(new Error('broker'))
    await expect(shutdown.ended).rejects.toThrow('broker')
  })
})

describe('cold', () => {
  test.each([
    ['SIGQUIT'],
    ['SIGINT', 'SIGINT'],
    ['SIGTERM', 'SIGINT'],
    ['SIGTERM', 'SIGTERM'],
    ['SIGINT', 'SIGTERM'],
  ] as const)('after %s %s', async (...signals) => {
    const shutdown = shutdownWith()
    for (const signal of signals) shutdown.handle(signal)
    worker.terminated.resolve()
    expect(await shutdown.ended).toBe(1)
    expect(worker.calls.at(-1)).toBe('terminate')
  })

  test('a warm shutdown that ends meanwhile leaves the exit code to the cold one', async () => {
    const shutdown = shutdownWith()
    shutdown.handle('SIGTERM')
    shutdown.handle('SIGQUIT')
    worker.stopped.resolve()
    await Promise.resolve()
    worker.terminated.resolve()
    expect(await shutdown.ended).toBe(1)
  })

  test('REMAP_SIGTERM makes it of SIGTERM', () => {
    const shutdown = shutdownWith({ remapSigterm: true })
    shutdown.handle('SIGTERM')
    expect([worker.calls, exits]).toEqual([['terminate'], []])
    shutdown.handle('SIGTERM')
    expect([worker.calls, exits]).toEqual([['terminate'], [1]])
  })

  test('one signal more ends the process', () => {
    const shutdown = shutdownWith()
    shutdown.handle('SIGQUIT')
    shutdown.handle('SIGINT')
    expect(exits).toEqual([1])
  })
})

describe('soft time-out', () => {
  test('running tasks have that long', async () => {
    const shutdown = shutdownWith({ softTimeout: 10 })
    shutdown.handle('SIGQUIT')
    await vi.advanceTimersByTimeAsync(9_999)
    expect(worker.calls).toEqual(['stop'])
    await vi.advanceTimersByTimeAsync(1)
    expect(worker.calls).toEqual(['stop', 'terminate'])
  })

  test('it is over when they are done', async () => {
    const shutdown = shutdownWith({ softTimeout: 10 })
    shutdown.handle('SIGQUIT')
    worker.stopped.resolve()
    await vi.advanceTimersByTimeAsync(0)
    expect(worker.calls).toEqual(['stop', 'terminate'])
  })

  test('it is left out when no task runs, unless it is wanted then too', async () => {
    worker.active = 0
    shutdownWith({ softTimeout: 10 }).handle('SIGQUIT')
    expect(worker.calls).toEqual(['terminate'])
    worker = new FakeWorker()
    worker.active = 0
    shutdownWith({ softTimeout: 10, softOnIdle: true }).handle('SIGQUIT')
    worker.stopped.resolve()
    await vi.advanceTimersByTimeAsync(9_999)
    expect(worker.calls).toEqual(['stop'])
  })

  test('a signal during it gives the tasks up at once, the next ends the process', () => {
    const shutdown = shutdownWith({ softTimeout: 10 })
    shutdown.handle('SIGQUIT')
    shutdown.handle('SIGQUIT')
    expect(worker.calls).toEqual(['stop', 'cancelActive'])
    expect(exits).toEqual([])
    shutdown.handle('SIGINT')
    expect(exits).toEqual([1])
  })
})
