/** What Python Celery and we do for each other over one broker: the same for every broker that both know. */

import { TaskError, TaskRevokedError } from 'celeriac'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fleetAt, type Fleet, nodeTasks } from './fleet.ts'
import { celeriac } from './processes.ts'

/** Where the two meet. */
export interface MeetingPlace {
  /** For `broker`, on both sides. */
  readonly broker: string
  /** For `backend`, on both sides. */
  readonly backend: string
  /** Kills the broker's server and starts it again, where there is one. */
  restart?(): Promise<void>
  /** Settings of Python's side, in its names. */
  readonly python?: Record<string, unknown>
  /** Ends the servers. */
  stop(): Promise<void>
}

/** What both sides can do there. */
export interface MeetingOptions {
  /** Broadcasts of one side reach the other. Default true. */
  remoteControl?: boolean
  /** Which of the messages with the priorities 0, 3, 6 and 9 is the first. */
  mostUrgent: 0 | 9
  /** kombu sends a message with its priority. Default true. */
  pythonSendsPriorities?: boolean
  /** The most urgent priority that queues are to be declared with, where that must be said. */
  maxPriority?: number
  /** There is a server that can be killed and started again. Default true. */
  restarts?: boolean
  /** Whoever knows a task's id can ask for its result, not its sender alone. Default true. */
  sharedResults?: boolean
}

/** In place of `test` where the behaviour is another one there: what does not apply is no test, not one that is skipped. */
function noTest(_name: string, _body: () => Promise<void>): void {}

/** Registers the tests of both directions: a worker of each kind and clients of both on one broker. */
export function callsInBothDirections(
  name: string,
  start: () => Promise<MeetingPlace>,
  {
    remoteControl = true,
    mostUrgent,
    pythonSendsPriorities = true,
    maxPriority,
    restarts = true,
    sharedResults = true,
  }: MeetingOptions,
): void {
  const ours = maxPriority === undefined ? {} : { taskQueueMaxPriority: maxPriority }
  const [testOfControl, testWithoutControl] = remoteControl ? [test, noTest] : [noTest, test]
  const [testOfSharedResults, testOfOwnResults] = sharedResults ? [test, noTest] : [noTest, test]
  const testOfRestart = restarts ? test : noTest
  let place: MeetingPlace
  let both: Fleet
  const asSent = [6, 3, 9, 0]
  const inOrder = asSent.toSorted((one, other) => (mostUrgent === 9 ? other - one : one - other)).map(String)

  beforeAll(async () => {
    place = await start()
    const theirs = maxPriority === undefined ? {} : { task_queue_max_priority: maxPriority }
    both = fleetAt(place.broker, place.backend, {
      settings: ours,
      node: ours,
      python: { ...theirs, ...place.python },
    })
    await both.app.broker.connect()
    await Promise.all([both.nodeWorker(), both.pythonWorker()])
  })

  afterAll(async () => {
    await both.stop()
    await place.stop()
  })

  describe(`Python calls Node over ${name}`, () => {
    test('by name with positional and keyword arguments, and has the result', async () => {
      const printed = await both.python.run(`
a = app.send_task('node.add', (2, 3), queue='node')
b = app.send_task('node.add', (2,), {'y': 4}, queue='node')
c = app.send_task('node.add', kwargs={'x': 5, 'y': 6}, queue='node')
d = app.send_task('node.echo', (1, [2, None, True], 'ü'), {'deep': {'x': 1.5}}, queue='node')
print([r.get(timeout=60) for r in (a, b, c, d)])`)
      expect(printed).toBe("[5, 6, 11, [1, [2, None, True], 'ü', {'deep': {'x': 1.5}}]]")
    })

    test('with dates, decimals, uuids, bytes and big integers, which come back as they were', async () => {
      const printed = await both.python.run(`
from datetime import date, datetime, time, timezone
from decimal import Decimal
from uuid import UUID
values = [datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc), datetime(2026, 1, 2), date(2026, 2, 3), time(4, 5),
          Decimal('1.10'), UUID('12345678-1234-5678-1234-567812345678'), b'\\x00\\xff', 2**70, 2**53 + 1, -0.5]
back = app.send_task('node.echo', values, queue='node').get(timeout=60)
print([(a, b) for a, b in zip(values, back) if a != b or type(a) != type(b)], len(back))`)
      expect(printed).toBe('[] 10')
    })

    test('and gets the failure with type, message and traceback', async () => {
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
result = app.send_task('node.times', countdown=1, queue='node')
print(json.dumps(result.get(timeout=60)))`)
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

    testOfControl('and revokes the task before it starts', async () => {
      const printed = await both.python.run(`
result = app.send_task('node.write', ('revoked by python',), countdown=2, queue='node')
result.revoke()
try:
  result.get(timeout=60)
except Exception as error:
  print(type(error).__name__, error, result.state)`)
      expect(printed).toBe('TaskRevokedError revoked REVOKED')
      expect(both.ledger.lines).not.toContain('revoked by python')
    })

    testWithoutControl('and its revocation does not reach Node: the task runs', async () => {
      const printed = await both.python.run(`
result = app.send_task('node.write', ('revoked by python',), countdown=2, queue='node')
result.revoke()
result.get(timeout=60)
print(result.state)`)
      expect(printed).toBe('SUCCESS')
      expect(both.ledger.lines).toContain('revoked by python')
    })

    const what = pythonSendsPriorities
      ? 'the most urgent task runs first'
      : 'the tasks run as they were sent, for it sends none'
    test(`with priorities, and ${what}`, async () => {
      await both.python.run(`
for priority in (${asSent.join(', ')}):
    app.send_task('node.write', ('to node %d' % priority,), queue='node_urgent', priority=priority)`)
      const worker = await both.nodeWorker({
        queues: 'node_urgent',
        args: ['-P', 'solo', '--prefetch-multiplier', '1'],
      })
      await both.ledger.until(
        60,
        'all four tasks',
        (lines) => lines.filter((l) => l.startsWith('to node')).length === 4,
      )
      expect(both.ledger.after('to node')).toEqual(pythonSendsPriorities ? inOrder : asSent.map(String))
      await worker.end()
    })

    testOfSharedResults('with celery call and celery result', async () => {
      const call = await both.python.celery('call', 'node.add', '--args', '[20, 22]', '--queue', 'node')
      expect(call.code).toBe(0)
      const id = call.stdout.trim()
      expect(await both.app.AsyncResult(id).get({ timeout: 60 })).toBe(42)
      const result = await both.python.celery('result', id)
      expect(result.stdout.trim()).toBe('42')
    })

    testOfOwnResults(
      'with celery call, and whoever else waits for the result waits until the timeout',
      async () => {
        const call = await both.python.celery('call', 'node.write', '--args', '["called"]', '--queue', 'node')
        expect(call.code).toBe(0)
        await both.ledger.until(60, 'the task', (lines) => lines.includes('called'))
        const result = both.app.AsyncResult(call.stdout.trim())
        await expect(result.get({ timeout: 1 })).rejects.toMatchObject({ code: 'ERR_CELERIAC_TIMEOUT' })
        expect(await result.state()).toBe('PENDING')
      },
    )

    test('with link and link_error, and Node sends the callbacks on', async () => {
      const printed = await both.python.run(`
good = app.send_task('node.add', (1, 2), queue='node', link=app.signature('py.write', args=()).set(queue='python'))
good.get(timeout=60)
bad = app.send_task('node.fail', ('milk',), queue='node',
                    link_error=app.signature('py.write', args=('errback from python',), immutable=True).set(queue='python'))
print(good.id, bad.id)`)
      expect(printed).not.toBe('')
      await both.ledger.until(60, 'the callbacks', (lines) => lines.includes('errback from python'))
      await both.ledger.until(60, 'the callbacks', (lines) => lines.includes('3'))
    })

    test('from inside a task, and Node knows parent and root', async () => {
      const result = await both.app.sendTask('py.ask_node', [], { queue: 'python' })
      const { self, child } = (await result.get({ timeout: 60 })) as { self: string; child: string }
      await both.ledger.until(60, 'the child', (lines) =>
        lines.some((l) => l.startsWith(`request ${child} `)),
      )
      expect(both.ledger.lines).toContain(`request ${child} ${self} ${self}`)
    })
  })

  describe(`Node calls Python over ${name}`, () => {
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

    test('with dates, bytes and big integers, which come back as they were', async () => {
      const values = [new Date('2026-01-02T03:04:05.678Z'), Buffer.from([0, 255]), 2n ** 70n, -0.5, null]
      const result = await both.app.sendTask('py.echo', values, { queue: 'python' })
      const [back] = (await result.get({ timeout: 60 })) as [unknown[]]
      expect(back).toHaveLength(values.length)
      const [date, bytes, ...others] = back
      expect(new Date(String(date)).getTime()).toBe(Date.parse('2026-01-02T03:04:05.678Z'))
      expect(Buffer.from(bytes as Uint8Array)).toEqual(Buffer.from([0, 255]))
      expect(others).toEqual(values.slice(2))
    })

    test('and gets the failure with type, module, message, arguments and traceback', async () => {
      const result = await both.app.sendTask('py.fail', ['bread'], { queue: 'python' })
      const error = await result.get({ timeout: 60 }).then(
        () => undefined,
        (reason: unknown) => reason,
      )
      expect(error).toBeInstanceOf(TaskError)
      expect(error).toMatchObject({
        code: 'ERR_CELERIAC_TASK_FAILED',
        type: 'ValueError',
        module: 'builtins',
        args: ['no bread left', 7],
        taskId: result.id,
      })
      expect((error as TaskError).traceback).toContain('Traceback (most recent call last)')
      expect(await result.state()).toBe('FAILURE')
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
      expect(await result.state()).toBe('REVOKED')
      expect(both.ledger.lines).not.toContain('expired in python')
    })

    testOfControl('and revokes the task before it starts', async () => {
      const options = { countdown: 2, queue: 'python' }
      const result = await both.app.sendTask('py.write', ['revoked by node'], options)
      await result.revoke()
      await expect(result.get({ timeout: 60 })).rejects.toMatchObject({ code: 'ERR_CELERIAC_TASK_REVOKED' })
      expect(both.ledger.lines).not.toContain('revoked by node')
    })

    testWithoutControl('and its revocation does not reach Python: the task runs', async () => {
      const options = { countdown: 2, queue: 'python' }
      const result = await both.app.sendTask('py.write', ['revoked by node'], options)
      await result.revoke()
      await result.get({ timeout: 60 })
      expect(await result.state()).toBe('SUCCESS')
      expect(both.ledger.lines).toContain('revoked by node')
    })

    test('with priorities, and the most urgent task runs first', async () => {
      for (const priority of asSent) {
        await both.app.sendTask('py.write', [`to python ${priority}`], { priority, queue: 'python_urgent' })
      }
      const worker = await both.pythonWorker({
        queues: 'python_urgent',
        args: ['--prefetch-multiplier', '1'],
      })
      await both.ledger.until(
        60,
        'all four tasks',
        (lines) => lines.filter((l) => l.startsWith('to python')).length === 4,
      )
      expect(both.ledger.after('to python')).toEqual(inOrder)
      await worker.end('SIGKILL')
    })

    const environment = (): Record<string, string> => ({
      CELERY_BROKER_URL: place.broker,
      CELERY_RESULT_BACKEND: place.backend,
      LEDGER: both.ledger.path,
      SETTINGS: JSON.stringify(ours),
    })
    testOfSharedResults('with celeriac call and celeriac result', async () => {
      const env = environment()
      const args = ['call', 'py.add', '--args', '[20, 22]', '--queue', 'python']
      const call = await celeriac(['-A', nodeTasks, ...args], { env }).finished
      expect(call.code, call.stderr).toBe(0)
      const id = call.stdout.trim()
      expect(await both.app.AsyncResult(id).get({ timeout: 60 })).toBe(42)
      const result = await celeriac(['-A', nodeTasks, 'result', id], { env }).finished
      expect(result.stdout.trim()).toBe('42')
    })

    testOfOwnResults(
      'with celeriac call, and whoever else waits for the result waits until the timeout',
      async () => {
        const args = ['call', 'py.write', '--args', '["called from node"]', '--queue', 'python']
        const call = await celeriac(['-A', nodeTasks, ...args], { env: environment() }).finished
        expect(call.code, call.stderr).toBe(0)
        await both.ledger.until(60, 'the task', (lines) => lines.includes('called from node'))
        const printed = await both.python.run(`
try:
  app.AsyncResult('${call.stdout.trim()}').get(timeout=1)
except Exception as error:
  print(type(error).__name__)`)
        expect(printed).toBe('TimeoutError')
      },
    )

    test('from inside a task, and Python knows parent and root', async () => {
      const result = await both.app.sendTask('node.ask_python', [1], { queue: 'node' })
      const { self, child } = (await result.get({ timeout: 60 })) as { self: string; child: string }
      await both.ledger.until(60, 'the child', (lines) =>
        lines.some((l) => l.startsWith(`request ${child} `)),
      )
      expect(both.ledger.lines).toContain(`request ${child} ${self} ${self}`)
      expect((await result.children())?.map(({ id }) => id)).toEqual([child])
    })
  })

  testOfRestart(`both go on over ${name} when its server was killed and started again`, async () => {
    await place.restart?.()
    const fromNode = await both.app.sendTask('py.add', [20, 22], { queue: 'python' })
    expect(await fromNode.get({ timeout: 60 })).toBe(42)
    const printed = await both.python.run(`
print(app.send_task('node.add', (20, 22), queue='node').get(timeout=60))`)
    expect(printed).toBe('42')
  })
}
