import { afterEach, beforeEach, expect, test, vi } from 'vitest'

import { Gate } from '../../../lib/worker/gate.ts'
import type { NativeWorker } from '#native'

/** The core's side: slots, a lease, and the tags that it was asked for. */
class FakeCore {
  readonly words = new Int32Array(8).fill(-1)
  left = 1000
  readonly asked: number[] = []
  answer = true

  slots(): Int32Array {
    return this.words
  }

  leaseLeft(): number {
    return this.left
  }

  begin(tag: number): boolean {
    this.asked.push(tag)
    return this.answer
  }
}

let core: FakeCore
let gate: Gate

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'] })
  core = new FakeCore()
  gate = new Gate(core as unknown as NativeWorker)
  gate.renew()
})

afterEach(() => {
  vi.useRealTimers()
})

test('the core is told that its memory is seen', () => {
  expect(core.words[0]).toBe(1)
})

test.each([1, 2 ** 30, 2 ** 31 - 1, 2 ** 31, 2 ** 40 + 3])(
  'delivery %i begins once, and the core sees it',
  (tag) => {
    core.words[3] = tag * 2
    expect(gate.begin(tag, 3)).toBe(true)
    expect(core.words[3]).toBe((tag * 2 + 1) | 0)
    expect(gate.begin(tag, 3)).toBe(false)
    expect(core.asked).toEqual([])
  },
)

test('what is gone, or what another delivery has taken the place of, does not begin', () => {
  core.words[3] = -1
  expect(gate.begin(9, 3)).toBe(false)
  core.words[3] = 20
  expect(gate.begin(9, 3)).toBe(false)
  expect(core.words[3]).toBe(20)
})

test.each([true, false])('without a slot the core decides: %s', (answer) => {
  core.answer = answer
  expect(gate.begin(9, 0)).toBe(answer)
  expect(core.asked).toEqual([9])
})

test('after a standstill the core decides, and then the slots again', () => {
  core.words[3] = 18
  core.words[4] = 20
  vi.advanceTimersByTime(1000)
  expect(gate.begin(9, 3)).toBe(true)
  expect(core.asked).toEqual([9])
  expect(gate.begin(10, 4)).toBe(true)
  expect(core.asked).toEqual([9])
})

test.each([
  ['the machine slept, which one clock does not count', 60_000],
  ['the clock was set back', -60_000],
])('the core decides when %s', (_, by) => {
  core.words[3] = 18
  vi.setSystemTime(Date.now() + by)
  gate.begin(9, 3)
  expect(core.asked).toEqual([9])
})

test('without a lease the core decides each time', () => {
  core.left = 0
  gate.renew()
  for (const tag of [1, 2]) gate.begin(tag, 3)
  expect(core.asked).toEqual([1, 2])
})
