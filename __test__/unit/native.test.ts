import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

import { describe, expect, test } from 'vitest'

import { CeleriacError } from '../../lib/errors.ts'
import { call, callAsync, Calls } from '../../lib/native.ts'

describe('calls', () => {
  test('resolve with their value, in whatever order they are reported', async () => {
    const calls = new Calls()
    const numbers: number[] = []
    const results = ['a', 'b', 'c'].map((value) => calls.make(value, (number) => numbers.push(number)))
    expect(calls.outstanding).toBe(3)
    expect(numbers).toEqual([0, 1, 2])
    calls.report([1, 2, 0, 1], null, null)
    expect(await Promise.all(results)).toEqual(['a', 'b', 'c'])
    expect(calls.outstanding).toBe(0)
  })

  test('without a value resolve with their document', async () => {
    const calls = new Calls()
    const numbers: number[] = []
    const results = [1, 2].map(() => calls.make<unknown>(undefined, (number) => numbers.push(number)))
    expect(numbers).toEqual([0, 1])
    calls.report([1, 1, 0, 1], ['second', 'first'], null)
    expect(await Promise.all(results)).toEqual(['first', 'second'])
  })

  test('reject with the code that the core reports', async () => {
    const calls = new Calls()
    const failures: Array<{ call: number; code: string; message: string }> = []
    const result = calls.make(1, (number) =>
      failures.push({ call: number, code: 'ERR_CELERIAC_UNROUTABLE', message: 'nobody' }),
    )
    calls.report([], null, failures)
    await expect(result).rejects.toThrow(new CeleriacError('ERR_CELERIAC_UNROUTABLE', 'nobody'))
  })

  test('that cannot be started reject', async () => {
    const calls = new Calls()
    const start = (): never => {
      throw Object.assign(new Error('closed'), { code: 'ERR_CELERIAC_CLOSED' })
    }
    await expect(calls.make(1, start)).rejects.toBeInstanceOf(CeleriacError)
    expect(calls.outstanding).toBe(0)
  })

  test('that were cancelled are not taken for later ones by a late report', async () => {
    const calls = new Calls()
    let first = -1
    const cancelled = calls.make<unknown>(undefined, (number) => (first = number))
    expect(calls.cancel(first, new Error('enough'))).toBe(true)
    await expect(cancelled).rejects.toThrow('enough')
    const second = calls.make<unknown>(undefined, () => {})
    calls.report([first, 1], ['late'], null)
    expect(calls.outstanding).toBe(1)
    expect(calls.cancel(first, new Error('again'))).toBe(false)
    calls.failAll(new Error('closed'))
    await expect(second).rejects.toThrow('closed')
  })

  test('keep the process alive while one is under way, and only then', async () => {
    const module = fileURLToPath(new URL('../../lib/native.ts', import.meta.url))
    const script = `
      import { createJiti } from 'jiti'
      const { Calls } = await createJiti(import.meta.url).import(${JSON.stringify(module)})
      const calls = new Calls()
      const done = (number) => setTimeout(() => calls.report([number, 1], null, null), 20).unref()
      calls.make('first', done).then(async (value) => {
        console.log(value)
        console.log(await calls.make('second', done))
      })
    `
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script])
    expect(stdout).toBe('first\nsecond\n')
  })
})

describe('errors of the core', () => {
  const failing = Object.assign(new Error('no'), { code: 'ERR_CELERIAC_REFUSED' })

  test('become errors of ours, with the caller in their stack', async () => {
    const rejecting = (): Promise<unknown> => callAsync('test', () => Promise.reject(failing))
    await expect(rejecting()).rejects.toMatchObject({
      name: 'CeleriacError',
      code: 'ERR_CELERIAC_REFUSED',
      cause: failing,
    })
    const caller = async (): Promise<unknown> => {
      await rejecting()
      return undefined
    }
    const error = (await caller().catch((thrown: unknown) => thrown)) as Error
    expect(error.stack).toContain('caller')
    const throwing = (): never => {
      throw failing
    }
    expect(() => call('test', throwing)).toThrow(CeleriacError)
  })

  test('of other kinds stay as they are', async () => {
    const other = new RangeError('x')
    await expect(callAsync('test', () => Promise.reject(other))).rejects.toBe(other)
  })
})
