import { execFileSync } from 'node:child_process'
import { constants, fstatSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { Answers } from '../../lib/answers.ts'
import type { NativeBroker } from '../../lib/native.ts'

/** Stands for the core: gives these sockets, one after the other, and takes down what it is told. */
function core(...descriptors: number[]) {
  const told: Array<[connection: number, text: string]> = []
  let [given, unwatched] = [0, 0]
  const native = {
    unwatch: () => (unwatched += 1),
    watch: () => (given < descriptors.length ? [descriptors[given], given++] : null),
    answer: (connection: number, text: string) => {
      told.push([connection, text])
      return -1
    },
  }
  return { native: native as unknown as NativeBroker, told, unwatched: () => unwatched }
}

test('without a socket there is nothing to watch', () => {
  const { native, told } = core()
  const answers = new Answers(native, () => {})
  answers.watch()
  answers.close()
  expect(told).toEqual([])
})

test('a socket that cannot be used is closed and left to the core, which was told nothing that it has not read', () => {
  const file = openSync(import.meta.filename, 'r')
  const { native, told, unwatched } = core(file)
  new Answers(native, () => {}).watch()
  expect(unwatched()).toBe(1)
  expect(told).toEqual([])
  expect(() => fstatSync(file)).toThrow('EBADF')
})

describe('while an answer is awaited', () => {
  /** A core whose calls are answered, each when it has been asked for so often that the answer is there. */
  function answering(looksUntilAnswered: () => number) {
    const folder = mkdtempSync(join(tmpdir(), 'celeriac-'))
    const pipe = join(folder, 'pipe')
    execFileSync('mkfifo', [pipe])
    const descriptor = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK)
    let [looks, left, calls] = [0, 0, 0]
    const native = {
      watch: () => [descriptor, 0],
      answer: () => -1,
      readAnswer: () => {
        looks += 1
        left -= 1
        return left === 0 ? calls : -1
      },
    }
    const done: number[] = []
    const answers = new Answers(native as unknown as NativeBroker, (call) => done.push(call))
    // The first call finds the socket.
    answers.watch()
    return {
      done,
      looks: () => looks,
      call: () => {
        calls += 1
        left = looksUntilAnswered()
        answers.watch()
      },
      close: () => {
        answers.close()
        rmSync(folder, { recursive: true })
      },
    }
  }

  test('the event loop reads it without falling asleep, and goes on turning for others meanwhile', async () => {
    // On the second look: what is slow at first, or by others, is tried again.
    const core = answering(() => 2)
    let [turns, looks] = [0, 0]
    while (core.done.length === 0) {
      ;[turns, looks] = [0, core.looks()]
      core.call()
      expect(core.done).toEqual([])
      const end = performance.now() + 1
      while (core.done.length === 0 && performance.now() < end) {
        await new Promise(setImmediate)
        turns += 1
      }
    }
    expect(core.looks() - looks).toBe(2)
    expect(turns).toBeGreaterThanOrEqual(2)
    core.close()
  })

  test('after answers that came too late more and more calls are left to the socket, and none again once one came in time', async () => {
    let late = true
    const core = answering(() => (late ? Infinity : 1))
    const waitedFor: number[] = []
    for (let call = 1; call <= 16; call++) {
      const before = core.looks()
      core.call()
      // Longer than an answer is waited for.
      const end = performance.now() + 1
      while (performance.now() < end) await new Promise(setImmediate)
      if (core.looks() > before) waitedFor.push(call)
    }
    expect(waitedFor).toEqual([1, 3, 6, 11])
    late = false
    for (let call = 17; call <= 25; call++) {
      core.call()
      await new Promise(setImmediate)
      await new Promise(setImmediate)
    }
    expect(core.done).toEqual([20, 21, 22, 23, 24, 25])
    core.close()
  })
})
