import { describe, expect, test } from 'vitest'

import {
  CeleriacError,
  Ignore,
  MaxRetriesExceededError,
  Reject,
  Retry,
  SoftTimeLimitExceeded,
  TaskError,
  TaskRevokedError,
} from '../../../lib/errors.ts'
import { stackOf } from '../../../lib/log/record.ts'
import { errorFromDocument, exceptionDocument } from '../../../lib/results/exception.ts'

class NetworkError extends Error {}

class PythonError extends Error {
  static module = 'app.errors'
  override name = 'Python.Error'
  args = ['a', 2, () => 1]
}

describe('an exception is stored', () => {
  test.each<[string, unknown, object]>([
    ['an Error', new Error('x'), { exc_type: 'Error', exc_message: ['x'], exc_module: 'javascript' }],
    [
      'a TypeError',
      new TypeError('x'),
      { exc_type: 'TypeError', exc_message: ['x'], exc_module: 'builtins' },
    ],
    [
      'one of a class',
      new NetworkError('x'),
      { exc_type: 'NetworkError', exc_message: ['x'], exc_module: 'javascript' },
    ],
    [
      'one with a module',
      new PythonError(),
      { exc_type: 'Python.Error', exc_message: ['a', 2, '() => 1'], exc_module: 'app.errors' },
    ],
    [
      'one of ours',
      new MaxRetriesExceededError('x'),
      { exc_type: 'MaxRetriesExceededError', exc_message: ['x'], exc_module: 'celery.exceptions' },
    ],
    [
      'a predicate',
      new Ignore('x'),
      { exc_type: 'Ignore', exc_message: ['x'], exc_module: 'celery.exceptions' },
    ],
    [
      'a soft time limit',
      new SoftTimeLimitExceeded(),
      {
        exc_type: 'SoftTimeLimitExceeded',
        exc_message: ['SoftTimeLimitExceeded()'],
        exc_module: 'billiard.exceptions',
      },
    ],
    ['a text', 'x', { exc_type: 'Error', exc_message: ['x'], exc_module: 'javascript' }],
    ['undefined', undefined, { exc_type: 'Error', exc_message: [undefined], exc_module: 'javascript' }],
  ])('%s', (_, error, document) => {
    expect(exceptionDocument(error)).toEqual(document)
  })

  test('a remote one as what it was', () => {
    const document = { exc_type: 'ValueError', exc_message: ['x'], exc_module: 'builtins' }
    expect(exceptionDocument(errorFromDocument(document, 'id', null))).toEqual(document)
  })
})

describe('a stored exception is read', () => {
  test('as data, whatever it names', () => {
    const error = errorFromDocument(
      { exc_type: 'system', exc_message: ['rm', { a: 1 }], exc_module: 'os' },
      'id',
      'tb',
    )
    expect(error).toBeInstanceOf(TaskError)
    expect(error).toBeInstanceOf(CeleriacError)
    expect(error).toMatchObject({
      type: 'system',
      module: 'os',
      args: ['rm', { a: 1 }],
      traceback: 'tb',
      message: 'system: rm, {"a":1}',
    })
  })

  test.each<[string, unknown, object]>([
    ['without a module', { exc_type: 'E', exc_message: ['x'] }, { type: 'E', module: null, args: ['x'] }],
    ['with a text as message', { exc_type: 'E', exc_message: 'x' }, { type: 'E', args: ['x'] }],
    ['without a message', { exc_type: 'E' }, { args: [], message: 'E' }],
    ['that is no object', 'x', { type: 'Exception', args: ['x'] }],
    ['that is null', null, { type: 'Exception', args: [] }],
  ])('%s', (_, document, fields) => {
    expect(errorFromDocument(document, 'id', null)).toMatchObject(fields)
  })

  test('of a revoked task as TaskRevokedError', () => {
    const document = {
      exc_type: 'TaskRevokedError',
      exc_message: ['revoked'],
      exc_module: 'celery.exceptions',
    }
    expect(errorFromDocument(document, 'id', null)).toBeInstanceOf(TaskRevokedError)
  })
})

describe('what cannot be turned to text by itself', () => {
  const nameless = Object.assign(new Error('x'), { name: Symbol('odd') })
  const wordless = Object.assign(new Error('x'), { message: Object.create(null) as string })
  const throwing = Object.defineProperty(new Error('x'), 'message', {
    get() {
      throw new Error('from the getter')
    },
  })
  const rest = { exc_type: 'Error', exc_module: 'javascript' }
  test.each<[string, unknown, object]>([
    ['an object without prototype', Object.create(null), { ...rest, exc_message: [{}] }],
    [
      'one with a function, as text',
      Object.assign(Object.create(null) as object, { f: () => 1 }),
      { ...rest, exc_message: ['[Object: null prototype] { f: [Function: f] }'] },
    ],
    ['a symbol', Symbol('odd'), { ...rest, exc_message: ['Symbol(odd)'] }],
    ['a bigint', 10n, { ...rest, exc_message: [10n] }],
    ['a symbol for a name', nameless, { ...rest, exc_type: 'Symbol(odd)', exc_message: ['x'] }],
    ['an object for a message', wordless, { ...rest, exc_message: ['[Object: null prototype] {}'] }],
    ['a message that throws', throwing, { ...rest, exc_message: ['<unprintable>'] }],
  ])('%s', (_, error, document) => {
    expect(exceptionDocument(error)).toEqual(document)
    expect(stackOf(error)).toBeTypeOf('string')
  })

  test('as a cause', () => {
    const error = new Error('x', { cause: Object.create(null) })
    expect(stackOf(error)).toMatch(/^Error: x[^]*\nCaused by: \[Object: null prototype\] \{\}$/)
  })

  test('as what is retried for or rejected', () => {
    const odd: unknown = Object.create(null)
    expect(new Reject(odd).message).toBe('reject requeue=false: [Object: null prototype] {}')
    expect(new Reject(throwing).message).toBe('reject requeue=false: <unprintable>')
    expect(new Retry(undefined, { error: odd }).message).toBe('Retry: [Object: null prototype] {}')
    expect(new Retry(undefined, { error: nameless }).message).toBe('Retry: Symbol(odd): x')
  })

  test('as an argument of what came from elsewhere', () => {
    const circular: unknown[] = []
    circular.push(circular)
    const remote = { type: 'Odd', module: null, args: [circular, () => 1], traceback: null, taskId: 'id' }
    expect(new TaskError(remote).message).toBe('Odd: , () => 1')
  })
})
