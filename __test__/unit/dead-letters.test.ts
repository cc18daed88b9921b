import { randomUUID } from 'node:crypto'

import { beforeEach, describe, expect, test } from 'vitest'

import { Celery } from '../../lib/app.ts'
import { BrokerConnection } from '../../lib/broker.ts'
import { DeadLetters, deadLetterReasons } from '../../lib/dead-letters.ts'
import { readDeadMessage } from '../../lib/dead-message.ts'
import { Reject } from '../../lib/errors.ts'
import type { NativeBrokerOptions } from '../../lib/native.ts'
import { Worker } from '../../lib/worker/worker.ts'
import { rawTask } from '../support/reliability/messages.ts'
import { until } from '../support/wait.ts'
import { FakeDeadList } from './support/fake-dead-list.ts'

let list: FakeDeadList
let deadLetters: DeadLetters

beforeEach(() => {
  list = new FakeDeadList()
  const options = { url: 'fake://' } as NativeBrokerOptions
  deadLetters = new DeadLetters(new BrokerConnection(() => options, list.open))
})

function refusal(text: string): unknown {
  return expect.objectContaining({
    code: 'ERR_CELERIAC_INVALID_ARGUMENT',
    message: expect.stringContaining(text) as string,
  })
}

const notFound = expect.objectContaining({ code: 'ERR_CELERIAC_DEAD_LETTER_NOT_FOUND' }) as unknown

describe('list', () => {
  test('letters come oldest first, without their bytes, and with null for what is not known', async () => {
    list.add({ id: '7', queue: '', atMs: 1_700_000_000_123 })
    list.add({ id: '8', reason: 'rejected', task: 't.add', taskId: 'some-id' })
    const [first, second] = await deadLetters.list()
    expect(first).toEqual({
      id: '7',
      queue: null,
      reason: 'malformed',
      detail: 'expected value at line 1 column 1',
      task: null,
      taskId: null,
      date: new Date(1_700_000_000_123),
      size: 8,
    })
    expect(second).toMatchObject({
      id: '8',
      queue: 'q',
      reason: 'rejected',
      task: 't.add',
      taskId: 'some-id',
    })
  })

  test('offset and limit count what matches, over pages', async () => {
    const wanted: string[] = []
    for (let index = 0; index < 1700; index++) {
      const reason = index % 3 === 0 ? 'rejected' : 'malformed'
      const id = list.add({ reason })
      if (reason === 'rejected') wanted.push(id)
    }
    const found = await deadLetters.list({ reason: 'rejected', offset: 300, limit: 200 })
    expect(found.map(({ id }) => id)).toEqual(wanted.slice(300, 500))
    expect(list.pages).toEqual([
      [0, 500],
      [500, 500],
      [1000, 500],
    ])
  })

  test('without a limit a hundred come', async () => {
    list.addMany(101)
    expect(await deadLetters.list()).toHaveLength(100)
    expect(await deadLetters.list({ limit: 0 })).toEqual([])
  })

  test('all that a filter says applies, and null asks for what is not known', async () => {
    const [unknownQueue] = list.addMany(1, { queue: '' })
    list.add({ task: 't.a' })
    const both = list.add({ task: 't.a', queue: 'other' })
    const ids = async (filter: Parameters<DeadLetters['list']>[0]): Promise<string[]> =>
      (await deadLetters.list(filter)).map(({ id }) => id)
    expect(await ids({ task: 't.a', queue: 'other', reason: 'malformed' })).toEqual([both])
    expect(await ids({ queue: null })).toEqual([unknownQueue])
    expect(await ids({ task: null })).toEqual([unknownQueue])
    expect(await ids({ task: undefined, queue: 'other' })).toEqual([both])
    expect(await ids({ reason: 'poison' })).toEqual([])
  })

  test('what it does not know is refused, with what it knows', async () => {
    const list = (options: object): Promise<unknown> => deadLetters.list(options)
    await expect(list({ reson: 'poison' })).rejects.toEqual(refusal("'reson' here: did you mean 'reason'?"))
    await expect(deadLetters.drop({ limit: 1 } as object)).rejects.toEqual(
      refusal("there is no 'limit' here: There are queue, reason, task"),
    )
    await expect(list({ reason: 'poisoned' })).rejects.toEqual(refusal("'poisoned' is no reason"))
    await expect(list({ reason: 'poisoned' })).rejects.toEqual(refusal(deadLetterReasons.join(', ')))
    await expect(list({ queue: 5 })).rejects.toEqual(refusal('queue must be a name'))
    await expect(list({ task: '' })).rejects.toEqual(refusal('task must be a name'))
    await expect(list({ limit: -1 })).rejects.toEqual(refusal('limit must be a whole number from 0, not -1'))
    await expect(list({ offset: 0.5 })).rejects.toEqual(refusal('offset must be a whole number'))
    await expect(list('q' as unknown as object)).rejects.toEqual(refusal("not 'q'"))
  })
})

test('scan ends at what was last when it began, also when the list grows while it is read', async () => {
  const before = list.addMany(1200)
  list.meanwhile = () => list.add()
  const seen: string[] = []
  for await (const { id } of deadLetters.scan()) seen.push(id)
  expect(seen).toEqual(before)
})

test('count counts what matches', async () => {
  list.addMany(600, { reason: 'rejected' })
  list.addMany(7)
  expect(await deadLetters.count()).toBe(607)
  expect(list.pages).toEqual([])
  expect(await deadLetters.count({ reason: 'rejected' })).toBe(600)
})

describe('get', () => {
  test('gives the original bytes, and what they say', async () => {
    const raw = rawTask({ task: 't.add', id: 'some-id', args: [1, 'two'] })
    const id = list.add({ raw, reason: 'unknown-task' })
    const letter = await deadLetters.get(id)
    expect(letter.raw.toString()).toBe(raw)
    expect(letter).toMatchObject({
      reason: 'unknown-task',
      message: { task: 't.add', id: 'some-id', argsrepr: "(1, 'two')", kwargsrepr: '{}' },
    })
  })

  test('bytes that are no message come as they are', async () => {
    const raw = Buffer.from([0xff, 0x00, 0x7b])
    expect(await deadLetters.get(list.add({ raw }))).toMatchObject({ raw, message: null })
  })

  test('an id that is not there is an error of its own, and no id a wrong argument', async () => {
    await expect(deadLetters.get('12')).rejects.toEqual(notFound)
    await expect(deadLetters.get('12')).rejects.toThrow("no letter '12'")
    await expect(deadLetters.get('')).rejects.toEqual(refusal("not ''"))
    await expect(deadLetters.get(5 as unknown as string)).rejects.toEqual(refusal('not 5'))
  })
})

describe('replay and drop', () => {
  test('ids are taken each once, and those that are gone are not counted', async () => {
    const [first, second, third] = list.addMany(4) as [string, string, string]
    expect(await deadLetters.replay(first)).toBe(1)
    expect(await deadLetters.replay([second, first, second], { queue: 'elsewhere' })).toBe(1)
    expect(list.replayed).toEqual([
      [first, null],
      [second, 'elsewhere'],
    ])
    expect(await deadLetters.drop([third, 'gone'])).toBe(1)
    expect(list.ids).toEqual(['letter-4'])
    expect(await deadLetters.drop([])).toBe(0)
  })

  test('when none of the ids is there it says so', async () => {
    list.add()
    await expect(deadLetters.replay('gone')).rejects.toEqual(notFound)
    await expect(deadLetters.drop(['a', 'b', 'c', 'd', 'e'])).rejects.toThrow("'a', 'b', 'c' and 2 more")
    expect(list.letters).toHaveLength(1)
  })

  test('a filter takes all that match, oldest first, and no other', async () => {
    const wanted: string[] = []
    for (let index = 0; index < 1234; index++) {
      const id = list.add({ task: index % 2 === 0 ? 't.even' : 't.odd' })
      if (index % 2 === 0) wanted.push(id)
    }
    expect(await deadLetters.replay({ task: 't.even' })).toBe(617)
    expect(list.replayed.map(([id]) => id)).toEqual(wanted)
    expect(await deadLetters.drop({})).toBe(617)
    expect(list.letters).toEqual([])
    expect(await deadLetters.drop({})).toBe(0)
  })

  test('what comes back into the list while it is replayed is not replayed again', async () => {
    const before = list.addMany(700)
    // Workers bury each of them again.
    list.meanwhile = () => list.addMany(100)
    expect(await deadLetters.replay({})).toBe(700)
    expect(list.replayed.map(([id]) => id)).toEqual(before)
    expect(list.letters.length).toBeGreaterThan(0)
  })

  test('what others remove meanwhile hides none that is there', async () => {
    list.addMany(2000)
    const removed = new Set<string>()
    list.meanwhile = () => {
      for (const { id } of list.letters.splice(0, 30)) removed.add(id)
    }
    const count = await deadLetters.drop({})
    expect(list.letters).toEqual([])
    expect(count + removed.size).toBe(2000)
  })

  test('a letter whose queue is not known holds up a replay of all, before anything was moved', async () => {
    list.addMany(600)
    const lost = list.add({ queue: '' })
    await expect(deadLetters.replay({})).rejects.toEqual(refusal(lost))
    await expect(deadLetters.replay({})).rejects.toEqual(refusal('say which with `queue`'))
    expect(list.replayed).toEqual([])
    expect(await deadLetters.replay({ queue: null }, { queue: 'found' })).toBe(1)
    expect(list.replayed).toEqual([[lost, 'found']])
    expect(await deadLetters.drop({})).toBe(600)
  })

  test('an error amid many says how many were done', async () => {
    const ids = list.addMany(150)
    ids.push(list.add({ queue: '' }))
    await expect(deadLetters.replay(ids)).rejects.toEqual(refusal('(100 of 151 were replayed before)'))
  })

  test('nothing is taken for everything by mistake', async () => {
    list.addMany(3)
    const given: unknown[] = [
      undefined,
      null,
      '',
      [''],
      [5],
      5,
      { queue: undefined },
      { reason: 'all' },
      { id: 'x' },
    ]
    for (const which of given) {
      await expect(deadLetters.drop(which as string), String(which)).rejects.toEqual(refusal(''))
      await expect(deadLetters.replay(which as string), String(which)).rejects.toEqual(refusal(''))
    }
    await expect(deadLetters.drop({ queue: undefined })).rejects.toEqual(
      refusal('leave it out to mean any queue'),
    )
    for (const options of [{ queue: '' }, { queue: null }, { queue: undefined }, { to: 'q' }]) {
      await expect(deadLetters.replay({}, options as object), JSON.stringify(options)).rejects.toEqual(
        refusal(''),
      )
    }
    expect(list.letters).toHaveLength(3)
  })
})

describe('what a message says', () => {
  const envelope = (body: string, headers: object, properties: object = {}): Buffer =>
    Buffer.from(JSON.stringify({ body, headers, properties, 'content-type': 'application/json' }))

  test('the sender’s own words for the arguments come first', () => {
    const headers = { task: 't', id: 'i', argsrepr: "('<hidden>',)", kwargsrepr: "{'key': '***'}" }
    expect(readDeadMessage(envelope('[["secret"], {"key": "secret"}, {}]', headers))).toEqual({
      task: 't',
      id: 'i',
      argsrepr: "('<hidden>',)",
      kwargsrepr: "{'key': '***'}",
      contentType: 'application/json',
      contentEncoding: null,
      headers,
      properties: {},
    })
  })

  test('without them they are made of the body, which is Python’s JSON', () => {
    const body =
      '[[NaN, 12345678901234567890, "a,]\\"}", [1, {"b": 2}]] , {"k": -Infinity}, {"callbacks": null}]'
    const both = [
      envelope(body, { task: 't' }),
      envelope(Buffer.from(body).toString('base64'), { task: 't' }, { body_encoding: 'base64' }),
    ]
    for (const raw of both) {
      expect(readDeadMessage(raw)).toMatchObject({
        argsrepr: `(nan, 12345678901234567890, 'a,]"}', [1, {'b': 2}])`,
        kwargsrepr: "{'k': -inf}",
      })
    }
  })

  test('of protocol 1 all of it is in the body', () => {
    const body = '{"task": "t.old", "id": "some-id", "args": [2], "kwargs": {"x": "y"}, "retries": 0}'
    expect(readDeadMessage(envelope(body, {}))).toMatchObject({
      task: 't.old',
      id: 'some-id',
      argsrepr: '(2,)',
      kwargsrepr: "{'x': 'y'}",
    })
  })

  test.each([
    ['no JSON', '%%%'],
    ['empty', ''],
    ['cut off', '[[1, 2'],
    ['closed too often', ']]}'],
    ['of the wrong shape', '[1, 2]'],
    ['an open text', '["'],
  ])('a body that is %s leaves the headers readable', (_, body) => {
    expect(readDeadMessage(envelope(body, { task: 't' }))).toMatchObject({
      task: 't',
      id: null,
      argsrepr: null,
      kwargsrepr: null,
    })
  })

  test.each([
    ['no JSON', Buffer.from('not json')],
    ['no UTF-8', Buffer.from([0x7b, 0xff, 0x7d])],
    ['empty', Buffer.alloc(0)],
    ['an array', Buffer.from('[]')],
    ['without a body', Buffer.from('{}')],
    ['with a body that is no text', Buffer.from('{"body": [1]}')],
    [
      'nested too deeply',
      Buffer.from(`{"body": "", "headers": ${'['.repeat(100_000)}${']'.repeat(100_000)}}`),
    ],
  ])('what is %s says nothing', (_, raw) => {
    expect(readDeadMessage(raw)).toBeNull()
  })

  test.each([
    ['[', 199, true],
    ['[', 200, false],
    ['{"a":', 199, true],
    ['{"a":', 200, false],
  ])('%s, %d times, is nested deeply, and readable is %j', (opening, levels, isReadable) => {
    const closing = opening === '[' ? ']' : '}'
    const value = `${opening.repeat(levels)}"\\\\\\"[[["${closing.repeat(levels)}`
    const message = readDeadMessage(
      Buffer.from(`{"body": "${'['.repeat(1000)}", "headers": {}, "x": ${value}}`),
    )
    expect(message !== null).toBe(isReadable)
  })

  test('headers of a wrong type are none', () => {
    const raw = Buffer.from('{"body": "[[],{},{}]", "headers": [1], "properties": null}')
    expect(readDeadMessage(raw)).toMatchObject({ task: null, headers: {}, properties: {}, argsrepr: '()' })
  })
})

test('in memory, what a worker refuses can be looked at, replayed and dropped', async () => {
  const queue = `q-${randomUUID()}`
  await using app = new Celery('proj', {
    broker: 'memory://',
    backend: 'cache+memory://',
    taskDefaultQueue: queue,
  })
  app.task({ name: 'reject' }, () => {
    throw new Reject('not for us')
  })
  const rejected = await app.sendTask('reject', [1, 'two'])
  const unknown = await app.sendTask('later', [2, 3])
  const first = new Worker(app, { concurrency: 2 })
  await first.start()
  await until(20, 'two dead letters', async () => (await app.deadLetters.count({ queue })) === 2)
  await first.stop()

  const [letter] = await app.deadLetters.list({ queue, reason: 'rejected' })
  expect(letter).toMatchObject({ task: 'reject', taskId: rejected.id })
  const whole = await app.deadLetters.get(letter?.id as string)
  expect(whole.raw).toHaveLength(whole.size)
  expect(whole.message).toMatchObject({ id: rejected.id, argsrepr: "(1, 'two')" })

  app.task({ name: 'later', params: ['x', 'y'] }, (x: number, y: number) => x + y)
  expect(await app.deadLetters.replay({ queue, task: 'later' })).toBe(1)
  const second = new Worker(app, { concurrency: 2 })
  await second.start()
  await until(20, 'the result', async () => app.AsyncResult(unknown.id).successful())
  expect(await app.AsyncResult(unknown.id).get()).toBe(5)
  expect(await app.deadLetters.drop(whole.id)).toBe(1)
  expect(await app.deadLetters.count({ queue })).toBe(0)
  await second.stop()
})
