import { describe, expect, test } from 'vitest'

import { canEncode, encodeJson, encodeTagged } from '../../../lib/serialization/encode.ts'
import { decodeJson } from '../../../lib/serialization/revive.ts'
import { DateTime, Decimal, PlainDate, PlainTime, PyFloat, Uuid } from '../../../lib/serialization/types.ts'

const encode = (value: unknown): string => encodeJson(value, 'args')

describe('plain values', () => {
  test.each<[string, unknown]>([
    ['numbers', [1, -2.5, 0, 1e20, 2 ** 53]],
    ['strings with everything', ['"', '\u2028', '\ud800', 'ø', '']],
    ['nesting', { a: [{ b: [null, true, false] }], c: {} }],
    ['an object without a prototype', Object.assign(Object.create(null) as object, { a: 1 })],
  ])('%s are what JSON.stringify gives', (_, value) => {
    expect(encode(value)).toBe(JSON.stringify(value))
  })

  test('undefined is null in arrays and absent in objects', () => {
    expect(JSON.parse(encode([undefined, { a: undefined, b: 1 }]))).toEqual([null, { b: 1 }])
    expect(encode([Array(2) as unknown[]])).toBe('[[null, null]]')
  })

  test('one object in two places is no circle', () => {
    const shared = { a: NaN }
    expect(encode([shared, shared])).toBe('[{"a": NaN}, {"a": NaN}]')
  })
})

describe("Python's dialect", () => {
  test.each<[string, unknown, string]>([
    ['NaN', NaN, 'NaN'],
    ['Infinity', Infinity, 'Infinity'],
    ['-Infinity', -Infinity, '-Infinity'],
    ['negative zero', -0, '-0.0'],
    ['a big integer', 2n ** 70n, '1180591620717411303424'],
    ['a small BigInt', 5n, '5'],
    ['a whole PyFloat', new PyFloat(1), '1.0'],
    ['a PyFloat', new PyFloat(-2.5), '-2.5'],
    ['a PyFloat of negative zero', new PyFloat(-0), '-0.0'],
    ['a PyFloat that is no number', new PyFloat(NaN), 'NaN'],
    ['a PyFloat with an exponent', new PyFloat(1e21), '1e+21'],
  ])('%s', (_, value, text) => {
    expect(encode([value])).toBe(`[${text}]`)
  })

  test.each<[string, unknown, string, unknown]>([
    ['a Date', new Date(Date.UTC(2020, 0, 2, 3, 4, 5, 6)), 'datetime', '2020-01-02T03:04:05.006000+00:00'],
    ['a Date without milliseconds', new Date(Date.UTC(2020, 0, 2)), 'datetime', '2020-01-02T00:00:00+00:00'],
    [
      'a DateTime',
      new DateTime('2020-01-01T01:02:03.000004+02:00'),
      'datetime',
      '2020-01-01T01:02:03.000004+02:00',
    ],
    ['a naive DateTime', new DateTime('2020-01-01T01:02:03'), 'datetime', '2020-01-01T01:02:03'],
    ['a PlainDate', new PlainDate('2020-01-31'), 'date', '2020-01-31'],
    ['a PlainTime', new PlainTime('01:02:03.5'), 'time', '01:02:03.5'],
    ['a Decimal', new Decimal('1.10'), 'decimal', '1.10'],
    [
      'a Uuid',
      new Uuid('00010203-0405-0607-0809-0a0b0c0d0e0f'),
      'uuid',
      { hex: '000102030405060708090a0b0c0d0e0f' },
    ],
    ['bytes that are text', Buffer.from('aø'), 'bytes', 'aø'],
    ['bytes that are none', new Uint8Array([0xff]), 'base64', '/w=='],
    ['bytes with a byte order mark', Buffer.from([0xef, 0xbb, 0xbf, 65]), 'bytes', '\ufeffA'],
  ])('%s has its tag', (_, value, type, inner) => {
    expect(JSON.parse(encode([value]))).toEqual([{ __type__: type, __value__: inner }])
  })

  test('an object with toJSON is what that gives', () => {
    expect(encode([{ toJSON: () => ({ a: 1n }) }, new URL('http://localhost/x')])).toBe(
      '[{"a": 1}, "http://localhost/x"]',
    )
  })

  test('an instance of a class is its own members', () => {
    class Point {
      x = 1
      y = NaN
    }
    expect(encode([new Point()])).toBe('[{"x": 1, "y": NaN}]')
  })

  test('boxed values are their values', () => {
    expect(encode([Object('a'), Object(1), Object(false)])).toBe('["a", 1, false]')
  })
})

describe('what JSON has no form for', () => {
  const circle: Record<string, unknown> = { user: {} }
  ;(circle['user'] as Record<string, unknown>)['self'] = circle

  test.each<[string, unknown, string]>([
    ['a function', [{ user: { name: () => 1 } }], 'args[0].user.name'],
    ['a symbol', [[1, Symbol('x')]], 'args[0][1]'],
    ['a circle', [circle], 'args[0].user.self'],
    ['a Set', [new Set([1])], 'args[0]'],
    ['a Map', [{ 'a b': new Map() }], 'args[0]["a b"]'],
    ['a promise', [Promise.resolve(1)], 'args[0]'],
    ['an Error', [new Error('x')], 'args[0]'],
    ['an invalid Date', [new Date(NaN)], 'args[0]'],
    ['a typed array of numbers', [new Float64Array(1)], 'args[0]'],
    ['what looks like a tag', [{ __type__: 'x', __value__: 1 }], 'args[0]'],
  ])('%s is refused by its path', (_, value, path) => {
    expect(() => encode(value)).toThrow(
      expect.objectContaining({
        code: 'ERR_CELERIAC_ENCODE',
        message: expect.stringContaining(`${path}:`) as string,
      }),
    )
    expect(canEncode(value)).toBe(false)
  })

  test('circles with many ways through them are found at once', () => {
    const node: Record<string, unknown> = {}
    for (let index = 0; index < 20; index++) node[`to${index}`] = [node]
    expect(() => encode([node])).toThrow('circular')
  })

  test('a third key beside those of a tag is fine', () => {
    expect(JSON.parse(encode([{ __type__: 1, __value__: 2, more: 3 }]))).toEqual([
      { __type__: 1, __value__: 2, more: 3 },
    ])
  })
})

describe('nesting', () => {
  const nested = (levels: number, innermost: unknown): unknown => {
    let value = innermost
    for (let level = 0; level < levels; level++) value = level % 2 === 0 ? [value] : { a: value }
    return value
  }
  const tooDeep = expect.objectContaining({
    code: 'ERR_CELERIAC_ENCODE',
    message: expect.stringMatching(
      /^cannot send args\[0\]\.a\[0\]\.a.* … \(191 steps\): it nests deeper than 190/,
    ) as string,
  }) as Error

  test.each<[string, unknown]>([
    ['plain', 1],
    ['special', NaN],
  ])('of %s values goes down 190 levels and no further', (_, innermost) => {
    expect(encode(nested(190, innermost)).replaceAll(/[^[{]/g, '')).toHaveLength(190)
    expect(() => encode(nested(191, innermost))).toThrow(tooDeep)
    expect(() => encodeTagged(nested(191, innermost), 'args')).toThrow('deeper')
  })

  test('so deep that the stack would not do is refused as well', () => {
    expect(() => encode(nested(100_000, 1))).toThrow('deeper')
  })

  test('what is to be wrapped has to leave room for that', () => {
    expect(canEncode(nested(180, 1))).toBe(true)
    expect(canEncode(nested(190, 1))).toBe(false)
  })
})

test('what was written with tags reads back in JavaScript', () => {
  const value = {
    when: new DateTime('2020-01-01T01:02:03.000004+02:00'),
    bytes: Buffer.from([255, 0]),
    numbers: [NaN, Infinity, -Infinity, 2n ** 64n, 1.5],
    id: new Uuid('00010203-0405-0607-0809-0a0b0c0d0e0f'),
  }
  const back = decodeJson(encodeTagged(value, 'value'), true) as typeof value
  expect(back.numbers).toEqual(value.numbers)
  expect(back.when.iso).toBe(value.when.iso)
  expect(back.bytes).toEqual(value.bytes)
  expect(back.id.equals(value.id)).toBe(true)
})
