import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { brokers, type TestBroker } from '../support/brokers.ts'
import { fleet, type Fleet } from '../support/fleet.ts'
import { dead, deadList, deadOutput, deadWithImpatientReader } from '../support/reliability/dead.ts'
import { rawTask } from '../support/reliability/messages.ts'
import { until } from '../support/wait.ts'

/** Sends a task of Python's, and prints what lies in the queue then as base64. */
const SEND_AND_PEEK = (id: string): string => `
import base64, json
app.send_task('node.later', (20, 22), task_id='${id}', queue='node', headers={'tenant': 'ä☃'})
with app.connection_for_read() as connection:
    channel = connection.default_channel
    if hasattr(channel, 'basic_get') and not hasattr(channel, 'client') and not hasattr(channel, 'session'):
        message = channel.basic_get('node')
        raw = json.dumps({
            'body': base64.b64encode(message.body if isinstance(message.body, bytes) else message.body.encode()).decode(),
            'content-type': message.content_type, 'content-encoding': message.content_encoding, 'headers': message.headers,
            'properties': {**message.properties, 'body_encoding': 'base64'}})
        channel.basic_reject(message.delivery_tag, requeue=True)
    elif hasattr(channel, 'client'):
        raw = channel.client.lindex('node', 0)
    else:
        raw = channel.session.query(channel.message_cls).order_by(channel.message_cls.id.desc()).first().payload
    print(base64.b64encode(raw if isinstance(raw, bytes) else raw.encode()).decode())
`

describe.each(brokers)('$name', (kind) => {
  let broker: TestBroker
  let nodes: Fleet

  beforeEach(async () => {
    broker = await kind.start()
    nodes = fleet(broker)
  })

  afterEach(async () => {
    await nodes.stop()
    await broker.stop()
  })

  const deadCount = (count: number): Promise<void> =>
    until(
      60,
      `${count} dead letters`,
      async () => (await nodes.app.deadLetters.count()) === count,
      async () => JSON.stringify(await nodes.app.deadLetters.list()),
    )

  test('what no worker could handle is listed with its reason, shown byte by byte, replayed, and dropped', async () => {
    const [rejectedId, deniedId, unknownId] = [randomUUID(), randomUUID(), randomUUID()]
    const sent = {
      malformed: Buffer.from([0xff, 0x00, 0x1b, 0x5b, 0x32, 0x4a, 0x0a, 0x80]),
      rejected: Buffer.from(rawTask({ task: 'node.reject', id: rejectedId, args: ['\u001b[2J'] })),
      'content-disallowed': Buffer.from(
        rawTask({ task: 'node.add', id: deniedId, contentType: 'application/x-python-serialize' }),
      ),
      'unknown-task': Buffer.from(await nodes.python.run(SEND_AND_PEEK(unknownId)), 'base64'),
    }
    await broker.push('node', sent.malformed, sent.rejected, sent['content-disallowed'])
    const first = await nodes.nodeWorker()
    await deadCount(4)

    const listed = await deadList(broker)
    const byReason = new Map(listed.map((letter) => [letter.reason, letter]))
    expect([...byReason.keys()].toSorted()).toEqual(Object.keys(sent).toSorted())
    expect(byReason.get('malformed')).toMatchObject({ queue: 'node', task: null, taskId: null })
    expect(byReason.get('rejected')).toMatchObject({ queue: 'node', task: 'node.reject', taskId: rejectedId })
    expect(byReason.get('content-disallowed')).toMatchObject({ task: 'node.add', taskId: deniedId })
    expect(byReason.get('unknown-task')).toMatchObject({ task: 'node.later', taskId: unknownId })
    expect(listed.map(({ date }) => date)).toEqual(listed.map(({ date }) => date).toSorted())
    expect(await deadList(broker, '--reason', 'rejected')).toEqual([byReason.get('rejected')])

    const table = (await deadOutput(broker, 'list')).toString().split('\n')
    expect(table).toHaveLength(2 + 4 + 1)
    for (const [reason, raw] of Object.entries(sent)) {
      const id = byReason.get(reason)?.id as string
      expect(table.filter((line) => line.startsWith(`${id} `) && line.includes(reason))).toHaveLength(1)
      const bytes = await deadOutput(broker, 'show', id, '--raw')
      expect(broker.asKept(bytes), reason).toEqual(broker.asKept(raw))
      expect(byReason.get(reason)?.size).toBe(bytes.length)
      const shown = JSON.parse((await deadOutput(broker, 'show', id, '--json')).toString()) as { raw: string }
      expect(Buffer.from(shown.raw, 'base64'), reason).toEqual(bytes)
      // No byte that a terminal acts on gets to it.
      expect((await deadOutput(broker, 'show', id)).toString()).toMatch(/^[^\p{Cc}]*(\n[^\p{Cc}]*)+$/u)
    }
    const unknown = (await deadOutput(broker, 'show', byReason.get('unknown-task')?.id as string)).toString()
    expect(unknown).toContain('arguments  (20, 22)')

    // As long as nobody knows the task, it comes back as it was.
    const before = byReason.get('unknown-task')?.id as string
    expect((await deadOutput(broker, 'replay', before)).toString()).toBe('Replayed 1 message.\n')
    await until(60, 'the next letter', async () => {
      const [letter] = await nodes.app.deadLetters.list({ task: 'node.later' })
      return letter !== undefined && letter.id !== before
    })
    const [again] = await deadList(broker, '--task', 'node.later')
    const bytes = await deadOutput(broker, 'show', again?.id as string, '--raw')
    expect(broker.asKept(bytes)).toEqual(broker.asKept(sent['unknown-task']))
    const failure = nodes.app.AsyncResult(unknownId)
    await expect(failure.get({ timeout: 30 })).rejects.toMatchObject({ type: 'NotRegistered' })
    await first.end()

    // The next release of the worker knows it.
    const second = await nodes.nodeWorker({ env: { RELEASE: '2' } })
    await second.says('The dead list holds 4 messages that no worker could handle.')
    await deadOutput(broker, 'replay', '--all', '--task', 'node.later')
    const result = (): Promise<boolean> => nodes.app.AsyncResult(unknownId).successful()
    await until(60, 'the result instead of the failure', result)
    expect(await nodes.app.AsyncResult(unknownId).get()).toBe(42)

    const gone = byReason.get('rejected')?.id as string
    expect((await dead(broker, 'drop', gone)).code).toBe(2)
    expect((await deadOutput(broker, 'drop', '-f', gone)).toString()).toBe('Dropped 1 message.\n')
    expect(await dead(broker, 'show', gone)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('ERR_CELERIAC_DEAD_LETTER_NOT_FOUND') as string,
    })
    expect((await deadList(broker)).map(({ reason }) => reason).toSorted()).toEqual([
      'content-disallowed',
      'malformed',
    ])
    expect((await deadOutput(broker, 'drop', '-f', '--all')).toString()).toBe('Dropped 2 messages.\n')
    expect(await deadList(broker)).toEqual([])
  })

  test('a replay of many puts each where it came from or where it is told to, each once', async () => {
    const ids = Array.from({ length: 1234 }, () => randomUUID())
    await broker.push('node', ...ids.map((id) => rawTask({ task: 'node.later', id, args: [1, 2] })))
    const worker = await nodes.nodeWorker()
    await deadCount(ids.length)
    await worker.end()

    const { deadLetters } = nodes.app
    const letters = await deadLetters.list({ limit: 2000 })
    expect(letters.map(({ taskId }) => taskId).toSorted()).toEqual(ids.toSorted())
    expect(await deadLetters.list({ offset: 1000, limit: 100 })).toEqual(letters.slice(1000, 1100))
    // `celeriac dead list | head`
    for (const flags of [[], ['--json']]) {
      const { code, stderr } = await deadWithImpatientReader(broker, 'list', ...flags)
      expect([code, stderr]).toEqual([0, ''])
    }
    // RabbitMQ has only queues that somebody declared.
    await broker.push('elsewhere')
    const moved = letters.slice(0, 3).map(({ id }) => id)
    expect(await deadLetters.replay(moved, { queue: 'elsewhere' })).toBe(3)
    expect((await deadOutput(broker, 'replay', '--all', '--queue', 'node')).toString()).toBe(
      'Replayed 1231 messages.\n',
    )
    expect(await broker.waiting('elsewhere')).toBe(3)
    expect(await broker.waiting('node')).toBe(1231)
    expect(await deadLetters.count()).toBe(0)

    // All of them are there: they come back under their ids.
    await nodes.nodeWorker({ queues: 'node,elsewhere' })
    await deadCount(ids.length)
    const back = await deadLetters.list({ limit: 2000 })
    expect(back.map(({ taskId }) => taskId).toSorted()).toEqual(ids.toSorted())
    expect(await deadLetters.count({ queue: 'elsewhere' })).toBe(3)
    expect(await deadLetters.drop({})).toBe(ids.length)
  })
})
