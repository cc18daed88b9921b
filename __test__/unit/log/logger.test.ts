import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { Settings } from '../../../lib/config/conf.ts'
import { runAsCurrentTask } from '../../../lib/current-task.ts'
import { configureLogging, flushLog, getLogger, getTaskLogger } from '../../../lib/log/logger.ts'
import { expandNodeName, nodeName } from '../../../lib/log/node-name.ts'
import { setUpLogging } from '../../../lib/log/setup.ts'
import type { TaskContext } from '../../../lib/task-context.ts'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'celeriac-log-'))
})

afterEach(() => {
  configureLogging(undefined)
  vi.unstubAllEnvs()
  rmSync(folder, { recursive: true })
})

function linesOf(
  conf: Settings,
  work: () => void,
  options: { json?: boolean; color?: boolean } = {},
): string[] {
  const file = join(folder, 'sub', 'w-%n.log')
  setUpLogging(conf, { level: 'INFO', file, hostname: 'one@host', ...options })
  work()
  flushLog()
  return readFileSync(join(folder, 'sub', 'w-one.log'), 'utf8')
    .trimEnd()
    .split('\n')
}

const task = { name: 'tasks.add', request: { id: 'some-id' } } as unknown as TaskContext

test('the settings’ formats are used: one for lines, one for those of task loggers', () => {
  const conf = new Settings({
    workerLogFormat: 'W %(message)s',
    workerTaskLogFormat: 'T %(task_name)s %(message)s',
  })
  const lines = linesOf(conf, () => {
    getLogger('celery.worker').info('a')
    getLogger('celery.worker').debug('not this')
    runAsCurrentTask(task, () => getTaskLogger('mine').warning('b'))
  })
  expect(lines).toEqual(['W a', 'T tasks.add b'])
})

test('JSON lines name the running task', () => {
  const lines = linesOf(new Settings(), () => runAsCurrentTask(task, () => getTaskLogger('mine').info('x')), {
    json: true,
  })
  expect(JSON.parse(lines[0] as string)).toMatchObject({
    logger: 'mine',
    task_id: 'some-id',
    task_name: 'tasks.add',
  })
})

test('a file never gets colours', () => {
  const conf = new Settings({ workerLogFormat: '%(message)s', workerLogColor: true })
  expect(linesOf(conf, () => getLogger('x').error('plain'), { color: true })).toEqual(['plain'])
})

test('an exception has its stack below', () => {
  const conf = new Settings({ workerLogFormat: '%(message)s' })
  const lines = linesOf(conf, () => getLogger('x').exception('went wrong', new RangeError('far')))
  expect(lines.slice(0, 2)).toEqual(['went wrong', 'RangeError: far'])
})

test('the names that Celery reserves are no task loggers', () => {
  expect(() => getTaskLogger('celery.task')).toThrow(
    expect.objectContaining({ code: 'ERR_CELERIAC_INVALID_ARGUMENT' }),
  )
})

describe('node names', () => {
  test.each([
    [undefined, 'celery@db1.example.com'],
    ['w1@%h', 'w1@db1.example.com'],
    ['w1@%n', 'w1@db1'],
    ['w1@%d', 'w1@example.com'],
    ['w1@', 'w1@db1.example.com'],
    ['other', 'celery@other'],
    ['100%%@x', '100%@x'],
  ])('%s is %s', (given, expected) => {
    expect(nodeName(given, 'db1.example.com')).toBe(expected)
  })

  test('a path may have their parts', () => {
    expect(expandNodeName('/log/%n-%h-%d-%p-%i%I.log', 'w1@a.b.c')).toBe('/log/w1-a.b.c-b.c-w1@a.b.c-0.log')
  })

  test('what stands for nothing is refused', () => {
    expect(() => expandNodeName('%x', 'w1@a')).toThrow(
      expect.objectContaining({ code: 'ERR_CELERIAC_INVALID_ARGUMENT' }),
    )
  })
})
