import { describe, expect, test } from 'vitest'

import { CeleriacError } from '../../lib/errors.ts'
import { Calls } from '../../lib/native.ts'
import { Outbox } from '../../lib/outbox.ts'
import type { PreparedMessage } from '../../lib/prepare.ts'

interface Crossing {
  first: number
  calls: string[][]
}

function message(args: string, more: Partial<PreparedMessage> = {}): PreparedMessage {
  return { route: 3, taskId: 'id', args, kwargs: '{}', options: null, ignoreResult: null, ...more }
}

/** An outbox, what crossed from it, and the core's answer. */
function outbox(fail?: () => void) {
  const calls = new Calls()
  const crossings: Crossing[] = []
  const box = new Outbox(calls, (first, text) => {
    fail?.()
    const lines = text.split('\n')
    expect(lines.pop()).toBe('')
    crossings.push({
      first,
      calls: Array.from({ length: lines.length / 5 }, (_, index) => lines.slice(5 * index, 5 * index + 5)),
    })
  })
  const done = (...numbers: number[]): void =>
    calls.report(
      numbers.flatMap((number) => [number, 1]),
      null,
      null,
    )
  return { calls, box, crossings, done }
}

describe('calls', () => {
  test('that come alone cross at once', async () => {
    const { box, crossings, done } = outbox()
    const sent = box.send(message('[1]', { kwargs: '{"x":1}', options: '{"retries":1}' }), 'value')
    expect(crossings).toEqual([{ first: 0, calls: [['3', 'id', '[1]', '{"x":1}', '{"retries":1}']] }])
    done(0)
    expect(await sent).toBe('value')
  })

  test('that come while one is under way cross together, at the end of their turn', async () => {
    const { box, crossings, done } = outbox()
    const all = ['[0]', '[1]', '[2]'].map((args) => box.send(message(args), args))
    expect(crossings.map(({ calls }) => calls.length)).toEqual([1])
    await Promise.resolve()
    expect(crossings.map(({ first, calls }) => [first, calls.map(([, , args]) => args)])).toEqual([
      [0, ['[0]']],
      [1, ['[1]', '[2]']],
    ])
    done(0, 1, 2)
    expect(await Promise.all(all)).toEqual(['[0]', '[1]', '[2]'])
  })

  test('do not wait for the end of their turn once there are many of them, or long ones', () => {
    const { box, crossings } = outbox()
    for (let index = 0; index < 300; index++) void box.send(message('[]'), null)
    expect(crossings.map(({ first, calls }) => [first, calls.length])).toEqual([
      [0, 1],
      [1, 128],
      [129, 128],
    ])
    box.flush()
    void box.send(message('[]'), null)
    void box.send(message(`["${'x'.repeat(2 ** 18)}"]`), null)
    expect(crossings.at(-1)?.calls).toHaveLength(2)
  })

  test('whose ids have line feeds or quotation marks keep them', () => {
    const { box, crossings } = outbox()
    void box.send(message('[]', { taskId: 'a\nb' }), null)
    void box.send(message('[]', { taskId: '"a"' }), null)
    void box.send(message('[]', { taskId: 'a"b' }), null)
    box.flush()
    expect(crossings.flatMap(({ calls }) => calls.map(([, id]) => id))).toEqual([
      '"a\\nb"',
      '"\\"a\\""',
      'a"b',
    ])
  })

  test('that the core does not take all fail', async () => {
    const { calls, box } = outbox(() => {
      throw new CeleriacError('ERR_CELERIAC_CLOSED', 'closed')
    })
    await expect(box.send(message('[]'), null)).rejects.toThrow('closed')
    const failed: number[] = []
    await box.sendMany([message('[]'), message('[]')], (index) => failed.push(index))
    expect(failed).toEqual([0, 1])
    expect(calls.outstanding).toBe(0)
  })
})

describe('many calls', () => {
  test('cross together, after those that wait', async () => {
    const { box, crossings, done } = outbox()
    void box.send(message('[0]'), null)
    void box.send(message('[1]'), null)
    const sent = box.sendMany([message('[2]'), message('[3]')], () => {})
    expect(crossings.map(({ first, calls }) => [first, calls.map(([, , args]) => args)])).toEqual([
      [0, ['[0]']],
      [1, ['[1]']],
      [2, ['[2]', '[3]']],
    ])
    done(2, 3)
    await sent
  })

  test('resolve when each is settled, and say which failed', async () => {
    const { calls, box } = outbox()
    const failed: Array<[number, unknown]> = []
    let isSettled = false
    const sent = box.sendMany([message('[0]'), message('[1]'), message('[2]')], (index, error) => {
      failed.push([index, (error as CeleriacError).code])
    })
    void sent.then(() => (isSettled = true))
    const failure = { call: 1, code: 'ERR_CELERIAC_UNROUTABLE', message: 'nowhere' }
    calls.report([0, 1], null, [failure])
    await Promise.resolve()
    expect(isSettled).toBe(false)
    calls.report([2, 1], null, null)
    await sent
    expect(failed).toEqual([[1, 'ERR_CELERIAC_UNROUTABLE']])
  })

  test('may be none', async () => {
    const { box, crossings } = outbox()
    await box.sendMany([], () => {})
    expect(crossings).toEqual([])
  })
})
