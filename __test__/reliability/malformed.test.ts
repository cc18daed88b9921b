import { describe, expect, test } from 'vitest'
import { type BrokerKind, brokers, startRedisBroker } from '../support/brokers.ts'
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

const kept = (queue: string, reason: string, raw: Buffer): string =>
  `${queue} ${reason} ${raw.toString('base64').slice(0, 300)} ${raw.length}`

describe.each(brokers)('$name', (kind) => {
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
        expected.push(kept(queue, reason, raw))
      }
      await broker.push(list, ...messages, goodMessage(`${list} last`, queue))
      good.push(`${list} last`)
    }

    const worker = workers.start('celery,second')
    await workers.ledger.until(60, 'every good task', () => workers.good.length >= good.length)
    const dead = workers.deadList()
    await until(30, 'every bad message', async () => (await dead.read()).length >= expected.length)
    // Long before any lease ends: nothing lies where kombu's restore would stop at it.
    await until(10, 'nothing held', async () => (await broker.held()) === 0)

    expect(workers.good.toSorted()).toEqual(good.toSorted())
    const found = (await dead.read()).map(({ queue, reason, raw }) => kept(queue, reason, raw))
    expect(found.toSorted()).toEqual(expected.toSorted())
    const complaints = workers.complaints()
    expect(complaints.length, complaints.map(({ message }) => message.slice(0, 200)).join('\n')).toBe(
      expected.length,
    )
    for (const { message } of complaints) {
      expect(message).toMatch(/^(Refused a message from queue|Received unregistered task)/)
    }
    expect(worker.child.exitCode).toBeNull()
    const { code, signal } = await worker.end()
    expect({ code, signal }).toEqual({ code: 0, signal: null })
    await workers.stop()
    await broker.stop()
  })

  test('messages of 100 MB come and go: the bad one is kept, the good one runs, and the worker gives the memory back', async () => {
    const broker = await kind.start()
    const workers = new HostileWorkers(broker)
    const worker = workers.start('celery')
    await broker.push('celery', goodMessage('first', 'celery'))
    await workers.ledger.until(30, 'the first task', () => workers.good.length === 1)
    const before = memoryOf(worker)

    const size = 100_000_000
    const bad = Buffer.alloc(size, '[')
    const long = bytesOf(
      protocol2({ task: 'hostile.length', id: 'long', queue: 'celery', args: ['x'.repeat(size)] }),
    )
    const dead = workers.deadList(1)
    const rounds: number[] = []
    for (let round = 1; round <= 3; round++) {
      await broker.push('celery', bad)
      await broker.push('celery', long, goodMessage(`after ${round}`, 'celery'))
      await workers.ledger.until(60, 'the good tasks', () => {
        return workers.good.length === 1 + round && workers.ledger.after('length').length === round
      })
      await until(60, 'the bad message', async () => (await dead.read()).length === round)
      await until(10, 'nothing held', async () => (await broker.held()) === 0)
      rounds.push(memoryOf(worker).now)
    }
    expect(workers.ledger.after('length')).toEqual(Array.from({ length: 3 }, () => `"long" ${size}`))
    for (const { raw, reason } of await dead.read()) {
      expect(reason).toBe('malformed')
      expect(raw.equals(bad)).toBe(true)
    }
    expect(workers.complaints().map(({ message }) => message.slice(0, 29))).toEqual(
      Array.from({ length: 3 }, () => 'Refused a message from queue '),
    )

    // Work that makes V8 collect.
    const ids = Array.from({ length: 20_000 }, (_, index) => `work ${index}`)
    await broker.push('celery', ...ids.map((id) => goodMessage(id, 'celery')))
    await workers.ledger.until(60, 'the tasks after it', () => workers.good.length === 4 + ids.length)
    const after = memoryOf(worker)
    figure(
      `${kind.name}: resident memory of a worker in MB`,
      `${before.now} before, ${rounds.join(', ')} after each 100 MB, ${after.peak} at most, ${after.now} in the end`,
    )
    // What a connection read and wrote once it may keep room for; no message adds to that.
    expect(rounds[2]).toBeLessThan((rounds[0] ?? 0) + 100)
    expect(after.now).toBeLessThan(before.now + 700)
    await workers.stop()
    await broker.stop()
  })

  test('six tasks of 95 MB that wait together run', async () => {
    const broker = await kind.start()
    const workers = new HostileWorkers(broker)
    const size = 95_000_000
    const ids = Array.from({ length: 6 }, (_, index) => `long ${index}`)
    for (const id of ids) {
      const args = ['x'.repeat(size)]
      await broker.push('celery', bytesOf(protocol2({ task: 'hostile.length', id, queue: 'celery', args })))
    }
    const worker = workers.start('celery')
    await workers.ledger.until(60, 'all of them', () => {
      expect(worker.child.exitCode, worker.output).toBeNull()
      return workers.ledger.after('length').length >= ids.length
    })
    figure(`${kind.name}: resident memory of a worker with six tasks of 95 MB, in MB`, memoryOf(worker).peak)
    const expected = ids.map((id) => `${JSON.stringify(id)} ${size}`)
    expect(workers.ledger.after('length').toSorted()).toEqual(expected)
    await until(10, 'nothing held', async () => (await broker.held()) === 0)
    expect(workers.complaints()).toEqual([])
    await workers.stop()
    await broker.stop()
  })
})
