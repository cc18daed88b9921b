import { TaskRevokedError } from 'celeriac'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fleet, type Fleet } from '../support/fleet.ts'
import type { Running } from '../support/processes.ts'
import { type RedisServer, startRedis } from '../support/servers.ts'

let redis: RedisServer
let nodes: Fleet
let worker: Running

beforeAll(async () => {
  redis = await startRedis()
  nodes = fleet(`${redis.url}/0`, `${redis.url}/1`)
  worker = await nodes.nodeWorker({ args: ['-c', '4'] })
})

afterAll(async () => {
  await nodes.stop()
  await redis.stop()
})

const queue = 'node'

describe('time', () => {
  test('tasks with a far ETA do not hold up others, however many they are', async () => {
    const far = await Promise.all(
      Array.from({ length: 200 }, () =>
        nodes.app.sendTask('node.write', ['far'], { queue, countdown: 3600 }),
      ),
    )
    const near = await nodes.app.sendTask('node.add', [1, 2], { queue })
    expect(await near.get({ timeout: 30 })).toBe(3)
    await Promise.all(far.map((result) => result.revoke()))
  })

  test('a task with a countdown begins when it is due, and not before', async () => {
    const result = await nodes.app.sendTask('node.times', [], { queue, countdown: 0.5 })
    const [began, eta] = (await result.get({ timeout: 30 })) as [number, number]
    expect(began).toBeGreaterThanOrEqual(eta)
  })

  test('a task that expires while it waits for its ETA is revoked', async () => {
    const options = { queue, countdown: 1, expires: 0.2 }
    const result = await nodes.app.sendTask('node.write', ['expired while waiting'], options)
    await expect(result.get({ timeout: 30 })).rejects.toBeInstanceOf(TaskRevokedError)
    expect(nodes.ledger.lines).not.toContain('expired while waiting')
  })

  test('a soft time limit fires the signal of the task, which then fails', async () => {
    const result = await nodes.app.sendTask('node.until_aborted', [], { queue, softTimeLimit: 0.3 })
    await expect(result.get({ timeout: 30 })).rejects.toMatchObject({ type: 'SoftTimeLimitExceeded' })
    expect(nodes.ledger.lines).toContain(`aborted ${result.id} SoftTimeLimitExceeded`)
  })
})

describe('retries', () => {
  test('retry() runs the task again under its id until it succeeds', async () => {
    const result = await nodes.app.sendTask('node.retry', [3], { queue })
    expect(await result.get({ timeout: 30 })).toBe(3)
    expect(nodes.ledger.after('attempt').filter((id) => id === result.id)).toHaveLength(4)
  })

  test('when no attempt is left the task fails with the reason of the last one', async () => {
    const result = await nodes.app.sendTask('node.give_up', [], { queue })
    await expect(result.get({ timeout: 30 })).rejects.toMatchObject({
      type: 'OutOfStock',
      args: ['gone for good'],
    })
  })

  test('autoretryFor retries its errors with backoff', async () => {
    const result = await nodes.app.sendTask('node.autoretry', [2], { queue })
    expect(await result.get({ timeout: 30 })).toBe(2)
  })

  test('autoretryFor gives up after maxRetries', async () => {
    const result = await nodes.app.sendTask('node.autoretry', [9], { queue })
    await expect(result.get({ timeout: 30 })).rejects.toMatchObject({
      type: 'OutOfStock',
      args: ['attempt 3'],
    })
  })
})

describe('outcomes', () => {
  test('Ignore stores nothing and the message is gone', async () => {
    const result = await nodes.app.sendTask('node.ignore', [], { queue })
    const next = await nodes.app.sendTask('node.add', [1, 1], { queue })
    await next.get({ timeout: 30 })
    await worker.says(`node.ignore[${result.id}]`)
    expect(await result.exists()).toBe(false)
  })

  test('Reject stores a failure and the message goes to the dead list', async () => {
    const result = await nodes.app.sendTask('node.reject', [], { queue })
    await expect(result.get({ timeout: 30 })).rejects.toMatchObject({ type: 'Reject' })
    const dead = await nodes.app.broker.deadLetters(0, 1000)
    expect(dead.filter(({ taskId }) => taskId === result.id).map(({ reason }) => reason)).toEqual([
      'rejected',
    ])
  })

  test('Reject with requeue gives the message back, marked as redelivered', async () => {
    const result = await nodes.app.sendTask('node.requeue_once', [], { queue })
    expect(await result.get({ timeout: 30 })).toBe('came back')
    expect(nodes.ledger.after('requeue')).toEqual(['false', 'true'])
  })

  test('a custom state can be seen while the task runs', async () => {
    const result = await nodes.app.sendTask('node.progress', [], { queue })
    await nodes.ledger.until(30, 'the task', (lines) => lines.includes(`halfway ${result.id}`))
    expect(await result.state()).toBe('HALFWAY')
    expect(await result.info()).toEqual({ done: 50 })
    await result.revoke({ terminate: true })
    await result.get({ timeout: 30, propagate: false })
  })

  test.each(['succeed', 'fail', 'retry'])(
    'the handlers run in their order when a task is to %s',
    async (how) => {
      const result = await nodes.app.sendTask('node.handlers', [how], { queue })
      await result.get({ timeout: 30, propagate: false })
      await nodes.ledger.until(30, 'afterReturn', (lines) =>
        lines.some((l) => l.startsWith(`afterReturn ${result.id}`)),
      )
      const lines = nodes.ledger.lines.filter((line) => line.includes(result.id))
      const success = [`onSuccess ${result.id} "${how}"`, `afterReturn ${result.id} SUCCESS`]
      const begin = [`beforeStart ${result.id}`, `body ${result.id}`]
      const expected = {
        succeed: [...begin, ...success],
        fail: [...begin, `onFailure ${result.id} as asked`, `afterReturn ${result.id} FAILURE`],
        retry: [...begin, `onRetry ${result.id} again`, ...begin, ...success],
      }[how]
      expect(lines).toEqual(expected)
    },
  )

  test('link is called with the result, linkError after a failure', async () => {
    const { app } = nodes
    const write = app.signature('node.write', { options: { queue } })
    await app.sendTask('node.add', ['linked ', 'result'], { queue, link: write })
    await nodes.ledger.until(30, 'the link', (lines) => lines.includes('linked result'))
    const linkError = app.signature('node.write', { args: ['failed'], immutable: true, options: { queue } })
    await app.sendTask('node.fail', ['bread'], { queue, linkError })
    await nodes.ledger.until(30, 'the errback', (lines) => lines.includes('failed'))
  })

  test('ignoreResult stores nothing, and get() gives null at once', async () => {
    const result = await nodes.app.sendTask('node.add', [1, 2], { queue, ignoreResult: true })
    expect(await result.get()).toBeNull()
    const next = await nodes.app.sendTask('node.write', ['after the ignored one'], { queue })
    await next.get({ timeout: 30 })
    expect(await nodes.app.AsyncResult(result.id).exists()).toBe(false)
  })

  test('an unknown task fails with NotRegistered and is kept in the dead list', async () => {
    const result = await nodes.app.sendTask('node.missing', [1], { queue })
    await expect(result.get({ timeout: 30 })).rejects.toMatchObject({ type: 'NotRegistered' })
    const dead = await nodes.app.broker.deadLetters(0, 1000)
    const ours = dead.filter(({ taskId }) => taskId === result.id)
    expect(ours.map((letter) => [letter.reason, letter.queue])).toEqual([['unknown-task', queue]])
  })
})

describe('the log', () => {
  test('has Celery’s lines of a task from its arrival to its end', async () => {
    const good = await nodes.app.sendTask('node.add', ['a', 'b'], { queue })
    const bad = await nodes.app.sendTask('node.fail', ['bread'], { queue })
    await worker.says(new RegExp(String.raw`INFO/MainProcess\] Task node\.add\[${good.id}\] received`))
    await worker.says(new RegExp(String.raw`Task node\.add\[${good.id}\] succeeded in [\d.]+s: 'ab'`))
    const failed = `ERROR/MainProcess] Task node.fail[${bad.id}] raised unexpected: OutOfStock('no bread left')`
    await worker.says(failed)
    expect(worker.output).toContain(`${failed}\nOutOfStock: no bread left\n    at `)
  })

  test('begins with the banner', () => {
    for (const line of ['[config]', '.> transport:   redis://', '.> concurrency: 4 (async)', '[queues]']) {
      expect(worker.output).toContain(line)
    }
    expect(worker.output).toMatch(/\.> node +exchange=node\(direct\) key=node/)
    expect(worker.output).toMatch(/ready\./)
  })
})

describe('what a task knows', () => {
  test('its request: id, root, retries, headers, routing key', async () => {
    const result = await nodes.app.sendTask('node.request', [], { queue, headers: { tenant: 'acme' } })
    const request = await result.get({ timeout: 30 })
    const { id } = result
    expect(request).toMatchObject({ id, rootId: id, parentId: null, retries: 0, routingKey: queue })
    expect((request as { headers: unknown }).headers).toMatchObject({ tenant: 'acme' })
  })

  test('a signature as an argument can be called, and its result is a child', async () => {
    const signature = nodes.app.signature('node.write', { args: ['called back'], options: { queue } })
    const result = await nodes.app.sendTask('node.call_back', [signature], { queue })
    const id = await result.get({ timeout: 30 })
    await nodes.ledger.until(30, 'the call', (lines) => lines.includes('called back'))
    expect((await result.children())?.map((child) => child.id)).toEqual([id])
  })
})

describe('revoke', () => {
  test('a task that waits is not run', async () => {
    const result = await nodes.app.sendTask('node.write', ['revoked'], { queue, countdown: 1 })
    await result.revoke()
    await expect(result.get({ timeout: 30 })).rejects.toBeInstanceOf(TaskRevokedError)
    expect(nodes.ledger.lines).not.toContain('revoked')
  })

  test('with terminate, the signal of a running task fires and the task is revoked', async () => {
    const result = await nodes.app.sendTask('node.until_aborted', [], { queue })
    await nodes.ledger.until(30, 'the task', (lines) => lines.includes(`begin ${result.id}`))
    await result.revoke({ terminate: true })
    await expect(result.get({ timeout: 30 })).rejects.toBeInstanceOf(TaskRevokedError)
  })
})

describe('queues', () => {
  test('-Q takes from the named queues and leaves the others alone', async () => {
    const other = await nodes.app.sendTask('node.write', ['from elsewhere'], { queue: 'elsewhere' })
    const two = await nodes.nodeWorker({ queues: 'first,second' })
    const results = await Promise.all([
      nodes.app.sendTask('node.add', [1, 1], { queue: 'first' }),
      nodes.app.sendTask('node.add', [2, 2], { queue: 'second' }),
    ])
    expect(await Promise.all(results.map((result) => result.get({ timeout: 30 })))).toEqual([2, 4])
    expect(await other.state()).toBe('PENDING')
    expect(await nodes.app.broker.queueLength('elsewhere')).toBe(1)
    await two.end()
  })
})
