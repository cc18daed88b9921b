import { describe, expect, test } from 'vitest'
import { type BrokerKind, brokers, startRedisBroker, type TestBroker } from '../support/brokers.ts'
import { fleet } from '../support/fleet.ts'
import { Random } from '../support/random.ts'
import { figure } from '../support/reliability/figures.ts'
import { HostileWorkers, memoryOf } from '../support/reliability/hostile-worker.ts'
import { badMessages, goodMessage } from '../support/reliability/malformed.ts'
import { bytesOf, protocol2 } from '../support/reliability/message-trees.ts'
import { until } from '../support/wait.ts'

/** Where they are pushed: a list of Redis is a queue at one of its priorities. */
const lists: Record<string, { queue: string; list: string }[]> = {
  Redis: [
    { queue: 'celery', list: 'celery' },
    { queue: 'celery', list: 'celery\x06\x163' },
    { queue: 'second', list: 'second' },
    { queue: 'second', list: 'second\x06\x169' },
  ],
}
const listsOf = ({ name }: BrokerKind): { queue: string; list: string }[] =>
  lists[name] ?? ['celery', 'second'].map((queue) => ({ queue, list: queue }))

function kept(broker: TestBroker, queue: string, reason: string, raw: Buffer): string {
  const bytes = broker.asKept(raw)
  return `${queue} ${reason} ${bytes.toString('base64').slice(0, 300)} ${bytes.length}`
}

for (const kind of brokers) {
  describe(`on ${kind.name}`, () => {
    test('what is no task is kept with its bytes, its reason and one line, on every queue, and the good tasks around it run', async () => {
      const broker = await kind.start()
      const workers = new HostileWorkers(broker)
      const good: string[] = []
      const expected: string[] = []
      for (const { queue, list } of listsOf(kind)) {
        const messages: Buffer[] = []
        for (const { what, raw, reason } of badMessages(queue)) {
          const id = `${list} before ${what}`
          good.push(id)
          messages.push(goodMessage(id, queue), raw)
          expected.push(kept(broker, queue, reason, raw))
        }
        await broker.push(list, ...messages, goodMessage(`${list} last`, queue))
        good.push(`${list} last`)
      }

      const worker = workers.start('celery,second')
      await workers.ledger.until(60, 'every good task', () => workers.good.length >= good.length)
      const dead = workers.deadList()
      await until(30, 'every bad message', async () => (await dead.list()).length >= expected.length)
      // Long before any lease ends: nothing lies where kombu's restore would stop at it.
      await until(10, 'nothing held', async () => (await broker.held()) === 0)

      expect(workers.good.toSorted()).toEqual(good.toSorted())
      const found = (await dead.read()).map(({ queue, reason, raw }) => kept(broker, queue, reason, raw))
      expect(found.toSorted()).toEqual(expected.toSorted())
      const complaints = workers.complaints()
      expect(complaints.length, complaints.map(({ message }) => message.slice(0, 200)).join('\n')).toBe(
        expected.length,
      )
      for (const { message } of complaints) {
        expect(message).toMatch(/^(Refused a message from queue|Received unregistered task)/)
      }
      expect(worker.isRunning).toBe(true)
      const { code, signal } = await worker.end()
      expect({ code, signal }).toEqual({ code: 0, signal: null })
      await workers.stop()
      await broker.stop()
    })

    test('messages of 100 MB come and go: the bad one is kept, the good one runs, and the worker gives the memory back', async () => {
      const broker = await kind.start()
      const workers = new HostileWorkers(patient(kind, broker))
      const worker = workers.start('celery')
      await broker.push('celery', goodMessage('first', 'celery'))
      await workers.ledger.until(30, 'the first task', () => workers.good.length === 1)
      const before = memoryOf(worker)

      const size = 100_000_000
      // To look at its dead list RabbitMQ hands out all that is in it.
      const times = kind.name === 'RabbitMQ' ? 1 : 3
      const bad = Buffer.alloc(size, '[')
      const long = bytesOf(
        protocol2({ task: 'hostile.length', id: 'long', queue: 'celery', args: ['x'.repeat(size)] }),
      )
      const dead = workers.deadList()
      const rounds: number[] = []
      for (let round = 1; round <= times; round++) {
        await broker.push('celery', bad)
        await broker.push('celery', long, goodMessage(`after ${round}`, 'celery'))
        await workers.ledger.until(60, 'the good tasks', () => {
          return workers.good.length === 1 + round && workers.ledger.after('length').length === round
        })
        await until(60, 'the bad message', async () => (await dead.list()).length === round)
        await until(10, 'nothing held', async () => (await broker.held()) === 0)
        rounds.push(memoryOf(worker).now)
      }
      expect(workers.ledger.after('length')).toEqual(Array.from({ length: times }, () => `"long" ${size}`))
      for (const { raw, reason } of await dead.read(1)) {
        expect(reason).toBe('malformed')
        expect(broker.asKept(raw).equals(broker.asKept(bad))).toBe(true)
      }
      const complaints = workers.complaints().map(({ message }) => message)
      expect(complaints).toEqual(
        Array.from({ length: times }, () => expect.stringMatching(/^Refused a message/)),
      )

      // Work that makes V8 collect.
      const ids = Array.from({ length: 20_000 }, (_, index) => `work ${index}`)
      await broker.push('celery', ...ids.map((id) => goodMessage(id, 'celery')))
      await workers.ledger.until(
        60,
        'the tasks after it',
        () => workers.good.length === 1 + times + ids.length,
      )
      const after = memoryOf(worker)
      figure(
        `${kind.name}: resident memory of a worker in MB`,
        `${before.now} before, ${rounds.join(', ')} after each 100 MB, ${after.peak} at most, ${after.now} in the end`,
      )
      // Connections may keep room for the largest message that they carried; each of them adds nothing to that.
      expect(after.now).toBeLessThan(before.now + 600)
      await workers.stop()
      await broker.stop()
    })

    test('six tasks of 95 MB that wait together run', async () => {
      const broker = await kind.start()
      const workers = new HostileWorkers(patient(kind, broker))
      const size = 95_000_000
      const ids = Array.from({ length: 6 }, (_, index) => `long ${index}`)
      for (const id of ids) {
        const args = ['x'.repeat(size)]
        await broker.push('celery', bytesOf(protocol2({ task: 'hostile.length', id, queue: 'celery', args })))
      }
      const worker = workers.start('celery')
      await until(
        60,
        'the end of all of them',
        () => workers.ledger.after('length').length >= ids.length || !worker.isRunning,
        () => `${worker.output}\n${JSON.stringify(workers.complaints()).slice(0, 4000)}`,
      )
      expect(worker.isRunning, worker.output).toBe(true)
      figure(
        `${kind.name}: resident memory of a worker with six tasks of 95 MB, in MB`,
        memoryOf(worker).peak,
      )
      const expected = ids.map((id) => `${JSON.stringify(id)} ${size}`)
      expect(workers.ledger.after('length').toSorted()).toEqual(expected)
      await until(10, 'nothing held', async () => (await broker.held()) === 0)
      expect(workers.complaints()).toEqual([])
      expect(worker.isRunning).toBe(true)
      await workers.stop()
      await broker.stop()
    })

    test('whenever a worker is killed, each bad message is kept once and each good one runs', async () => {
      const random = new Random()
      const broker = await kind.start()
      const workers = new HostileWorkers(broker)
      const ids: string[] = []
      const expected: string[] = []
      let caught = 0
      for (let kill = 0; kill < 12; kill++) {
        const worker = workers.start('celery', { lease: 2 })
        const ready = `ready ${kill}`
        ids.push(ready)
        const began = performance.now()
        await broker.push('celery', goodMessage(ready, 'celery'))
        // What a push takes; the kill is to come shortly after its messages have.
        const pushing = Math.ceil(performance.now() - began)
        await workers.ledger.until(30, 'a worker', () => workers.good.includes(ready))
        const bad = badMessages('celery')
        const good = bad.map(({ what }) => `${kill} ${what}`)
        const pushed = broker.push(
          'celery',
          ...bad.flatMap(({ raw }, place) => [raw, goodMessage(good[place] ?? '', 'celery')]),
        )
        if (kill % 2 === 0) {
          await new Promise((resolve) => setTimeout(resolve, pushing + random.between(-10, 20)))
        } else {
          // As soon as the first of them runs, when the others that were claimed with it are still held.
          const end = performance.now() + 30_000
          while (!workers.ledger.lines.some((line) => line.startsWith(`good "${kill} `))) {
            if (performance.now() > end) throw new Error(`no task ran within 30 s\n${worker.output}`)
            await new Promise((resolve) => setImmediate(resolve))
          }
        }
        await Promise.all([worker.end('SIGKILL'), pushed])
        caught += await broker.held()
        ids.push(...good)
        expected.push(...bad.map(({ reason, raw }) => kept(broker, 'celery', reason, raw)))
      }
      figure(`${kind.name}: held by workers at the moment of 12 kills`, caught)
      expect(caught).toBeGreaterThan(0)
      workers.start('celery', { lease: 2 })
      const dead = workers.deadList()
      await until(60, 'every bad message', async () => (await dead.list()).length >= expected.length)
      await workers.ledger.until(60, 'the good tasks', () => new Set(workers.good).size >= ids.length)
      await until(10, 'nothing held', async () => (await broker.held()) === 0)
      expect([...new Set(workers.good)].toSorted()).toEqual(ids.toSorted())
      const found = (await dead.read()).map(({ queue, reason, raw }) =>
        kept(broker, queue, reason, unmarked(raw)),
      )
      // Between the two steps a kill leaves it in both places, and whoever comes next keeps it once more.
      const surplus = kind.has.oneMove ? [] : without(found, expected)
      expect(surplus.filter((one) => !expected.includes(one))).toEqual([])
      expect(without(found, surplus).toSorted()).toEqual(expected.toSorted())
      await workers.stop()
      await broker.stop()
    })
  })
}

describe('Redis, of a worker that is killed', () => {
  test('what it had claimed and not yet looked at is kept too, and Python restores beside it', async () => {
    const broker = await startRedisBroker()
    const workers = new HostileWorkers(broker)
    const python = { visibility_timeout: 5, unacked_restore_interval: 1, unacked_restore_throttle: 1 }
    const both = fleet(broker, { python: { broker_transport_options: python } })
    const victim = workers.start('celery', { lease: 2 })
    await broker.push('celery', goodMessage('first', 'celery'))
    await workers.ledger.until(30, 'the first task', () => workers.good.length === 1)

    // What it asked the server for is done while it stands still: it never sees what it has claimed.
    const bad = badMessages('celery')
    const ids = bad.map(({ what }) => `before ${what}`)
    await until(10, 'nothing held', async () => (await broker.held()) === 0)
    victim.pause()
    await broker.push(
      'celery',
      ...bad.flatMap(({ what, raw }) => [raw, goodMessage(`before ${what}`, 'celery')]),
    )
    await until(10, 'its claim', async () => (await broker.held()) > 0)
    figure('claimed by a worker that is killed before it sees it', await broker.held())
    await victim.end('SIGKILL')
    // Python's restore stops at the first record that it cannot read.
    const records = (await broker.server.command('hvals', 'unacked')).split('\n')
    expect(records).toHaveLength(await broker.held())
    expect(records.length).toBeGreaterThan(1)
    for (const record of records) expect(() => JSON.parse(record), record.slice(0, 200)).not.toThrow()
    expect(workers.complaints()).toEqual([])
    // The server put these aside in the step that claimed for the victim, which did not live to say so.
    const dead = workers.deadList()
    const unsaid = (await dead.read()).map(({ raw }) => raw.toString('base64'))
    expect(unsaid.length).toBeGreaterThan(0)

    // One that only restores, and a Python worker beside it.
    workers.start('elsewhere', { lease: 2 })
    const pythonVictim = await both.pythonWorker({ queues: 'python', args: ['-P', 'threads', '-c', '1'] })
    const { id } = await both.app.sendTask('node.work', [3000], { queue: 'python' })
    await both.ledger.until(30, 'a task of Python', () => both.ledger.runsOf(id).length === 1)
    await pythonVictim.end('SIGKILL')
    const other = await both.pythonWorker({ queues: 'python', args: ['-P', 'threads', '-c', '1'] })
    await both.ledger.until(60, 'what the Python worker held', () => both.ledger.ended.has(id))
    expect(both.ledger.runsOf(id)).toHaveLength(2)
    expect(other.output).not.toContain('Traceback')
    await until(10, 'nothing held', async () => (await broker.held()) === 0)

    workers.start('celery', { lease: 2 })
    await workers.ledger.until(30, 'the good tasks', () => workers.good.length === 1 + ids.length)
    await until(30, 'every bad message', async () => (await dead.list()).length >= bad.length)
    expect(workers.good.toSorted()).toEqual(['first', ...ids].toSorted())
    expect(
      (await dead.read())
        .map(({ queue, reason, raw }) => kept(broker, queue, reason, unmarked(raw)))
        .toSorted(),
    ).toEqual(bad.map(({ reason, raw }) => kept(broker, 'celery', reason, raw)).toSorted())
    // Those that the victim could not speak of have no line of their own: whoever starts says that there are some.
    const complaints = workers.complaints().map(({ message }) => message)
    const ofStarts = complaints.filter((message) => /^The dead list holds [1-9]\d* messages/.test(message))
    expect(ofStarts).toHaveLength(2)
    expect(
      complaints
        .filter((message) => !ofStarts.includes(message))
        .map((message) => message.slice(0, 8))
        .toSorted(),
    ).toEqual(
      bad
        .filter(({ raw }) => !unsaid.includes(raw.toString('base64')))
        .map(({ reason }) => (reason === 'unknown-task' ? 'Received' : 'Refused '))
        .toSorted(),
    )
    await both.stop()
    await workers.stop()
    await broker.stop()
  })
})

/** The lines that are left when those of `others` are taken away, each as often as it is there. */
function without(lines: readonly string[], others: readonly string[]): string[] {
  const left = [...others]
  return lines.filter((one) => {
    const place = left.indexOf(one)
    if (place >= 0) left.splice(place, 1)
    return place < 0
  })
}

/** The bytes without what says that a message was handed out before. */
function unmarked(raw: Buffer): Buffer {
  const text = raw
    .toString('latin1')
    .replaceAll(', "redelivered": true', '')
    .replace('"headers": {"redelivered": true}', '"headers": null')
    .replace(', "delivery_info": {"redelivered": true}', '')
  return Buffer.from(text, 'latin1')
}

/** For messages of which a busy machine may take longer than the usual 10 s to send one. */
function patient(kind: BrokerKind, broker: TestBroker): TestBroker {
  return kind.name === 'Redis' ? { ...broker, url: `${broker.url}?socket_timeout=60` } : broker
}
