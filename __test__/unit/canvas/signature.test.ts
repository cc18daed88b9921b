import { beforeEach, describe, expect, test, vi } from 'vitest'

import { Celery } from '../../../lib/app.ts'
import { maybeSignature, Signature } from '../../../lib/canvas/signature.ts'
import { FakeBroker } from '../support/fake-native.ts'

vi.mock(import('../../../lib/native.ts'), async (original) => {
  const fake = await import('../support/fake-native.ts')
  return { ...(await original()), openNativeBroker: (...args) => fake.FakeBroker.open(...args) }
})

let app: Celery

beforeEach(() => {
  app = new Celery('proj', { broker: 'memory://' })
})

const sig = (init?: ConstructorParameters<typeof Signature>[2]): Signature => new Signature(app, 'add', init)
const plain = { args: [], kwargs: {}, options: {}, subtask_type: null, immutable: false }

test('in JSON it has exactly Celery’s keys, in their order', () => {
  const signature = app.signature('tasks.add', {
    args: [2],
    kwargs: { y: 1 },
    options: { countdown: 1, taskId: 'x' },
  })
  expect(JSON.stringify(signature)).toBe(
    '{"task":"tasks.add","args":[2],"kwargs":{"y":1},"options":{"countdown":1,"task_id":"x"},' +
      '"subtask_type":null,"immutable":false}',
  )
})

test('comes back from JSON as it was', () => {
  const signature = sig({ args: [1], options: { link: sig(), queue: 'q' }, immutable: true })
  const dict = JSON.parse(JSON.stringify(signature)) as object
  expect(JSON.parse(JSON.stringify(maybeSignature(dict, app)))).toEqual(dict)
  expect(maybeSignature(signature, app)).toBe(signature)
  expect(maybeSignature(null, app)).toBeNull()
  expect(() => maybeSignature({}, app)).toThrow(
    expect.objectContaining({ code: 'ERR_CELERIAC_INVALID_ARGUMENT' }),
  )
})

describe('a call', () => {
  const send = async (signature: Signature, ...call: Parameters<Signature['applyAsync']>) => {
    await signature.applyAsync(...call)
    return FakeBroker.last.sent.at(-1)
  }

  test('puts its arguments before those of the signature, and merges the rest', async () => {
    const signature = sig({ args: [2], kwargs: { a: 1, b: 1 }, options: { priority: 1, shadow: 's' } })
    expect(await send(signature, [1], { kwargs: { b: 2 }, priority: 5 })).toMatchObject({
      args: '[1,2]',
      kwargs: '{"a":1,"b":2}',
      options: { priority: 5, shadow: 's' },
    })
  })

  test('of an immutable one takes options only', async () => {
    const signature = sig({ args: [2], kwargs: { a: 1 }, immutable: true })
    expect(await send(signature, [1], { kwargs: { b: 2 }, priority: 5 })).toMatchObject({
      args: '[2]',
      kwargs: '{"a":1}',
      options: { priority: 5 },
    })
  })

  test('cannot change group id and stamps', async () => {
    const signature = sig({ options: { groupId: 'g', stamps: { deploy: 1 } } })
    expect(await send(signature, [], { groupId: 'other', stamps: { deploy: 2 } })).toMatchObject({
      options: { group: 'g', stamped_headers: ['deploy'], stamps: { deploy: 1 } },
    })
  })

  test('may carry message properties of Python’s', async () => {
    const dict = { ...plain, task: 'add', options: { app_id: 'x', producer: null, task_id: 'id' } }
    const result = await maybeSignature(dict, app)?.applyAsync()
    expect(result?.id).toBe('id')
    expect(FakeBroker.last.sent.at(-1)).toMatchObject({
      taskId: 'id',
      options: { properties: { app_id: 'x' } },
    })
  })

  test('of a task registered here takes its options', async () => {
    const add = app.task({ name: 'mul', queue: 'slow' }, (x: number, y: number) => x * y)
    await add.s(2).delay(3)
    expect(FakeBroker.last.sent.at(-1)).toMatchObject({
      args: '[3,2]',
      route: { routingKey: 'slow', ignoreResult: false },
    })
  })
})

describe('copies', () => {
  test('have nothing in common with the original', () => {
    const original = sig({ args: [1], kwargs: { a: 1 }, options: { link: [sig()], headers: { x: 1 } } })
    const copy = original.clone()
    copy.args.push(2)
    copy.kwargs['a'] = 2
    ;(copy.options['link'] as Signature[])[0]?.set({ priority: 1 })
    ;(copy.options['headers'] as Record<string, unknown>)['x'] = 2
    copy.linkError(sig())
    expect(original.toJSON()).toMatchObject({ args: [1], kwargs: { a: 1 }, options: { headers: { x: 1 } } })
    expect(JSON.parse(JSON.stringify(original.options))).toEqual({
      link: [{ ...plain, task: 'add' }],
      headers: { x: 1 },
    })
  })

  test('with more are merged like a call', () => {
    expect(
      sig({ args: [2] })
        .clone([1], { countdown: 5 })
        .toJSON(),
    ).toMatchObject({ args: [1, 2], options: { countdown: 5 } })
  })

  test('replace takes what is given', () => {
    expect(
      sig({ args: [1], kwargs: { a: 1 } })
        .replace({ args: [2] })
        .toJSON(),
    ).toMatchObject({ args: [2], kwargs: { a: 1 } })
  })
})

describe('links', () => {
  test('are lists without duplicates', () => {
    const signature = sig()
    const callback = sig({ args: [1] })
    expect(signature.link(callback)).toBe(callback)
    signature.link(sig({ args: [1] }))
    signature.link(sig({ args: [2] }))
    expect(signature.onError(sig())).toBe(signature)
    expect(JSON.parse(JSON.stringify(signature.options))).toEqual({
      link: [
        { ...plain, task: 'add', args: [1] },
        { ...plain, task: 'add', args: [2] },
      ],
      link_error: [{ ...plain, task: 'add' }],
    })
  })

  test('are flattened to any depth', () => {
    const [a, b, c] = [sig({ args: ['a'] }), sig({ args: ['b'] }), sig({ args: ['c'] })]
    b.link(c)
    a.link(b)
    expect(a.flattenLinks()).toEqual([a, b, c])
  })
})

test('freeze fixes the id, and keeps one that is there', () => {
  const signature = sig()
  const result = signature.freeze({ groupId: 'g', groupIndex: 2, rootId: 'r', parentId: 'p' })
  expect(signature.options).toEqual({
    task_id: result.id,
    reply_to: app.oid,
    group_id: 'g',
    group_index: 2,
    root_id: 'r',
    parent_id: 'p',
  })
  expect(signature.freeze({ taskId: 'other', groupId: 'h' }).id).toBe(result.id)
  expect(signature.options['group_id']).toBe('g')
})

test('set takes options in either spelling', () => {
  expect(sig().set({ taskId: 'x', immutable: true }).set({ link_error: null }).toJSON()).toMatchObject({
    options: { task_id: 'x', link_error: null },
    immutable: true,
  })
})

test('prints as a call', () => {
  expect(String(sig({ args: [2, 'a'], kwargs: { z: 1n } }))).toBe('add(2, "a", z=1)')
})

test('as an argument it travels in its JSON form', async () => {
  await app.sendTask('t', [sig()])
  expect(JSON.parse(FakeBroker.last.sent.at(-1)?.args ?? '')).toEqual([{ ...plain, task: 'add' }])
})
