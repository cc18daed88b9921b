import { join } from 'node:path'
import { TaskError, TaskRevokedError } from 'celeriac'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fleet, type Fleet, nodeTasks } from '../support/fleet.ts'
import { celeriac } from '../support/processes.ts'
import { temporaryFolder } from '../support/servers.ts'

const folder = temporaryFolder()
const broker = `sqla+sqlite:///${join(folder, 'broker.db')}`
const backend = `db+sqlite:///${join(folder, 'results.db')}`
let both: Fleet

beforeAll(async () => {
  both = fleet(broker, backend)
  await both.app.broker.connect()
  await Promise.all([both.nodeWorker(), both.pythonWorker()])
})

afterAll(() => both.stop())

describe('Python calls Node over a SQLite file', () => {
  test('by name with positional and keyword arguments, and has the result', async () => {
    const printed = await both.python.run(`
a = app.send_task('node.add', (2, 3), queue='node')
b = app.send_task('node.add', (2,), {'y': 4}, queue='node')
c = app.send_task('node.echo', (1, [2, None, True], 'ü'), {'deep': {'x': 1.5}}, queue='node')
print([r.get(timeout=60) for r in (a, b, c)])`)
    expect(printed).toBe("[5, 6, [1, [2, None, True], 'ü', {'deep': {'x': 1.5}}]]")
  })

  test('and gets the failure with type and message', async () => {
    const printed = await both.python.run(`
result = app.send_task('node.fail', ('bread',), queue='node')
try:
    result.get(timeout=60)
except Exception as error:
    print(type(error).__name__, error.args, result.state, 'tasks.ts' in result.traceback)`)
    expect(printed).toBe("OutOfStock ('no bread left',) FAILURE True")
  })

  test('and the task is retried until it succeeds, under one id', async () => {
    const printed = await both.python.run(`
result = app.send_task('node.retry', (2,), queue='node')
print(result.id, result.get(timeout=60), result.state)`)
    const [id, retries, state] = printed.split(' ')
    expect([retries, state]).toEqual(['2', 'SUCCESS'])
    expect(both.ledger.after('attempt').filter((attempt) => attempt === id)).toHaveLength(3)
  })

  test('with a countdown, and the task begins no sooner', async () => {
    const printed = await both.python.run(`
import json
print(json.dumps(app.send_task('node.times', countdown=1, queue='node').get(timeout=60)))`)
    const [began, eta] = JSON.parse(printed) as [number, number]
    expect(began).toBeGreaterThanOrEqual(eta)
  })

  test('too late, and the task is revoked instead of run', async () => {
    const printed = await both.python.run(`
from datetime import datetime, timedelta, timezone
late = datetime.now(timezone.utc) - timedelta(minutes=1)
result = app.send_task('node.write', ('expired',), expires=late, queue='node')
try:
    result.get(timeout=60)
except Exception as error:
    print(type(error).__name__, error, result.state)`)
    expect(printed).toBe('TaskRevokedError expired REVOKED')
    expect(both.ledger.lines).not.toContain('expired')
  })

  test('with celery call and celery result', async () => {
    const call = await both.python.celery('call', 'node.add', '--args', '[20, 22]', '--queue', 'node')
    const id = call.stdout.trim()
    expect(await both.app.AsyncResult(id).get({ timeout: 60 })).toBe(42)
    const result = await both.python.celery('result', id)
    expect(result.stdout.trim()).toBe('42')
  })
})

describe('Node calls Python over a SQLite file', () => {
  test('by name with positional and keyword arguments, and has the result', async () => {
    const { app } = both
    const sent = await Promise.all([
      app.sendTask('py.add', [2, 3], { queue: 'python' }),
      app.sendTask('py.add', [2], { kwargs: { y: 4 }, queue: 'python' }),
      app.sendTask('py.echo', [1, [2, null, true], 'ü'], { kwargs: { deep: { x: 1.5 } }, queue: 'python' }),
    ])
    const results = await Promise.all(sent.map((result) => result.get({ timeout: 60 })))
    expect(results).toEqual([5, 6, [[1, [2, null, true], 'ü'], { deep: { x: 1.5 } }]])
  })

  test('and gets the failure with type, module, message, arguments and traceback', async () => {
    const result = await both.app.sendTask('py.fail', ['bread'], { queue: 'python' })
    const error = await result.get({ timeout: 60 }).then(
      () => undefined,
      (reason: unknown) => reason,
    )
    expect(error).toBeInstanceOf(TaskError)
    expect(error).toMatchObject({ type: 'ValueError', module: 'builtins', args: ['no bread left', 7] })
    expect((error as TaskError).traceback).toContain('Traceback (most recent call last)')
  })

  test('and the task is retried until it succeeds, under one id', async () => {
    const result = await both.app.sendTask('py.retry', [2], { queue: 'python' })
    expect(await result.get({ timeout: 60 })).toBe(2)
    expect(both.ledger.after('attempt').filter((attempt) => attempt === result.id)).toHaveLength(3)
  })

  test('with a countdown, and the task begins no sooner', async () => {
    const result = await both.app.sendTask('py.times', [], { countdown: 1, queue: 'python' })
    const [began, eta] = (await result.get({ timeout: 60 })) as [number, number]
    expect(began).toBeGreaterThanOrEqual(eta)
  })

  test('too late, and the task is revoked instead of run', async () => {
    const expires = new Date(Date.now() - 60_000)
    const result = await both.app.sendTask('py.write', ['expired in python'], { expires, queue: 'python' })
    await expect(result.get({ timeout: 60 })).rejects.toBeInstanceOf(TaskRevokedError)
    expect(both.ledger.lines).not.toContain('expired in python')
  })

  test('with celeriac call and celeriac result', async () => {
    const env = { CELERY_BROKER_URL: broker, CELERY_RESULT_BACKEND: backend, LEDGER: both.ledger.path }
    const args = ['call', 'py.add', '--args', '[20, 22]', '--queue', 'python']
    const call = await celeriac(['-A', nodeTasks, ...args], { env }).finished
    expect(call.code, call.stderr).toBe(0)
    const id = call.stdout.trim()
    expect(await both.app.AsyncResult(id).get({ timeout: 60 })).toBe(42)
    const result = await celeriac(['-A', nodeTasks, 'result', id], { env }).finished
    expect(result.stdout.trim()).toBe('42')
  })
})

describe('Node calls Node over a SQLite file that Python shares', () => {
  test('and revokes the task before it starts', async () => {
    const result = await both.app.sendTask('node.write', ['revoked'], { countdown: 2, queue: 'node' })
    await result.revoke()
    await expect(result.get({ timeout: 60 })).rejects.toBeInstanceOf(TaskRevokedError)
    expect(both.ledger.lines).not.toContain('revoked')
  })

  test('with priorities, and the most urgent task runs first', async () => {
    for (const priority of [9, 3, 6, 0]) {
      await both.app.sendTask('node.write', [`to node ${priority}`], { priority, queue: 'node_urgent' })
    }
    const worker = await both.nodeWorker({
      queues: 'node_urgent',
      args: ['-P', 'solo', '--prefetch-multiplier', '1'],
    })
    await both.ledger.until(
      30,
      'all four tasks',
      (lines) => lines.filter((l) => l.startsWith('to node')).length === 4,
    )
    expect(both.ledger.after('to node')).toEqual(['0', '3', '6', '9'])
    await worker.end()
  })
})
