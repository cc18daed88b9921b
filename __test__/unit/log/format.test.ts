import { describe, expect, test } from 'vitest'

import { formatter, inColor, jsonFormatter } from '../../../lib/log/format.ts'
import { parseLevel } from '../../../lib/log/level.ts'
import { type LogRecord, stackOf } from '../../../lib/log/record.ts'
import { strftime } from '../../../lib/log/time.ts'

const at = new Date(2026, 0, 31, 9, 5, 7, 42)
const record: LogRecord = {
  level: 'INFO',
  logger: 'celery.app.trace',
  message: 'hello',
  atMs: at.getTime(),
  fromTask: false,
  taskId: null,
  taskName: null,
  stack: null,
}
const formatted = (format: string, more: Partial<LogRecord> = {}, dates: string | null = null): string =>
  formatter(format, dates)({ ...record, ...more })

describe('formats of Python’s logging', () => {
  test('Celery’s default', () => {
    expect(formatted('[%(asctime)s: %(levelname)s/%(processName)s] %(message)s')).toBe(
      '[2026-01-31 09:05:07,042: INFO/MainProcess] hello',
    )
  })

  test('Celery’s format for tasks, outside of a task too', () => {
    const format = '%(task_name)s[%(task_id)s]: %(message)s'
    expect(formatted(format, { taskName: 'add', taskId: 'x' })).toBe('add[x]: hello')
    expect(formatted(format)).toBe('???[???]: hello')
  })

  test('widths, precisions and conversions', () => {
    expect(
      formatted('%(levelname)-8s|%(levelname)8s|%(name).6s|%(process)d|%(msecs)03d|%(levelno)s|100%%'),
    ).toBe(`INFO    |    INFO|celery|${process.pid}|042|20|100%`)
  })

  test('a format of times', () => {
    expect(formatted('%(asctime)s', {}, '%d.%m.%y %H:%M:%S')).toBe('31.01.26 09:05:07')
  })

  test('a stack comes below the line', () => {
    expect(formatted('%(message)s', { stack: 'Error: x\n    at y' })).toBe('hello\nError: x\n    at y')
  })

  test('a field that there is none of is named', () => {
    expect(() => formatter('%(lineno)d')).toThrow(
      expect.objectContaining({
        code: 'ERR_CELERIAC_INVALID_SETTING',
        message: expect.stringContaining('%(lineno)s') as string,
      }),
    )
  })
})

test('JSON has one object a line, of the fields that there are', () => {
  expect(JSON.parse(jsonFormatter(record))).toEqual({
    time: at.toISOString(),
    level: 'INFO',
    logger: 'celery.app.trace',
    message: 'hello',
  })
  const full = { ...record, message: 'two\nlines', taskId: 'i', taskName: 'n', stack: 's' }
  expect(jsonFormatter(full)).not.toContain('\n')
  expect(JSON.parse(jsonFormatter(full))).toMatchObject({ task_id: 'i', task_name: 'n', stack: 's' })
})

test('the colour is that of the level; INFO has none', () => {
  const format = inColor(formatter('%(message)s'))
  expect(format(record)).toBe('hello')
  expect(format({ ...record, level: 'ERROR' })).toBe('\u001b[31mhello\u001b[39m')
})

test('levels are read in any case, with FATAL and WARN', () => {
  expect(['info', 'Fatal', 'warn'].map(parseLevel)).toEqual(['INFO', 'CRITICAL', 'WARNING'])
  expect(() => parseLevel('loud')).toThrow(expect.objectContaining({ code: 'ERR_CELERIAC_INVALID_ARGUMENT' }))
})

test('strftime leaves what it does not know', () => {
  expect(strftime('%a %b %j %% %p', at)).toBe('Sat Jan %j % AM')
})

test('a stack has those of its causes, and ends where they are circular', () => {
  const inner = new Error('inner')
  const outer = new Error('outer', { cause: inner })
  inner.cause = outer
  expect(stackOf(outer)).toMatch(/^Error: outer\n[^]*\nCaused by: Error: inner\n/)
  expect(stackOf('text')).toBe('text')
})
