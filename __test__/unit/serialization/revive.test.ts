import { describe, expect, test } from 'vitest'

import { encodeJson } from '../../../lib/serialization/encode.ts'
import { decodeJson, revive } from '../../../lib/serialization/revive.ts'
import { DateTime, Decimal, PlainDate, PlainTime, Uuid } from '../../../lib/serialization/types.ts'

const tag = (type: string, value: unknown): object => ({ __type__: type, __value__: value })

describe('tags', () => {
  test.each<[string, object]>([
    ['datetime', tag('datetime', '2020-01-01T01:02:03.000004+05:30')],
    ['naive datetime', tag('datetime', '2020-01-01T01:02:03')],
    ['date', tag('date', '2020-01-31')],
    ['time', tag('time', '13:00:00.000001+02:00')],
    ['decimal', tag('decimal', '1.10')],
    ['decimal NaN', tag('decimal', 'NaN')],
    ['uuid', tag('uuid', { hex: '000102030405060708090a0b0c0d0e0f' })],
    ['bytes', tag('bytes', 'aø')],
    ['base64', tag('base64', '/w==')],
  ])('%s goes back unchanged', (_, tagged) => {
    expect(JSON.parse(encodeJson(revive(structuredClone(tagged)), 'value'))).toEqual(tagged)
  })

  test('have classes of their own', () => {
    expect(revive(tag('datetime', '2020-01-01T01:02:03.000004+00:00'))).toBeInstanceOf(DateTime)
    expect(revive(tag('date', '2020-01-31'))).toBeInstanceOf(PlainDate)
    expect(revive(tag('time', '01:02:03'))).toBeInstanceOf(PlainTime)
    expect(revive(tag('decimal', '1.10'))).toBeInstanceOf(Decimal)
    expect(revive(tag('uuid', { hex: '000102030405060708090a0b0c0d0e0f' }))).toBeInstanceOf(Uuid)
    expect(revive(tag('float', 'nan'))).toBeNaN()
    expect(revive(tag('float', '-inf'))).toBe(-Infinity)
    expect(revive(tag('int', '-9007199254740993'))).toBe(-9007199254740993n)
  })

  test('are found at any depth', () => {
    const value = revive({ a: [{ b: tag('int', '99999999999999999999') }] })
    expect(value).toEqual({ a: [{ b: 99999999999999999999n }] })
  })

  test('an unknown type is refused', () => {
    expect(() => revive(tag('pickle', 'x'))).toThrow(expect.objectContaining({ code: 'ERR_CELERIAC_DECODE' }))
    expect(() => revive(tag('constructor', 'x'))).toThrow(
      expect.objectContaining({ code: 'ERR_CELERIAC_DECODE' }),
    )
  })

  test('a key called __proto__ stays a key', () => {
    const value = decodeJson('{"__proto__": {"__type__": "int", "__value__": "1"}, "a": 1}', true) as object
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype)
    expect(Object.getOwnPropertyDescriptor(value, '__proto__')?.value).toBe(1n)
  })

  test('text that is not tagged is parsed only', () => {
    expect(decodeJson('{"__type__": "int", "__value__": "1"}', false)).toEqual(tag('int', '1'))
  })
})

describe('DateTime', () => {
  test('is the time that its text says', () => {
    expect(new DateTime('2020-01-01T01:02:03.123456+05:30').getTime()).toBe(
      Date.UTC(2019, 11, 31, 19, 32, 3, 123),
    )
    expect(new DateTime('2020-01-01T01:02:03').getTime()).toBe(Date.UTC(2020, 0, 1, 1, 2, 3))
    expect(new DateTime('2020-01-01T01:02:03').naive).toBe(true)
    expect(new DateTime('2020-01-01T01:02:03Z').naive).toBe(false)
  })

  test('keeps up when the Date is changed', () => {
    const time = new DateTime('2020-01-01T01:02:03.000004+00:00')
    time.setUTCHours(5)
    expect(time.iso).toBe('2020-01-01T05:02:03+00:00')
  })

  test('refuses what is none', () => {
    for (const text of ['', 'today', '2020-13-01T00:00:00']) {
      expect(() => new DateTime(text)).toThrow(
        expect.objectContaining({ code: 'ERR_CELERIAC_INVALID_ARGUMENT' }),
      )
    }
  })
})

test('values of one class and text are equal', () => {
  expect(new Decimal('1.10').equals(new Decimal('1.10'))).toBe(true)
  expect(new Decimal('1.10').equals(new Decimal('1.1'))).toBe(false)
  expect(new PlainDate('2020-01-31').equals(new PlainTime('01:02'))).toBe(false)
  expect(String(new Uuid('{00010203-0405-0607-0809-0A0B0C0D0E0F}'))).toBe(
    '00010203-0405-0607-0809-0a0b0c0d0e0f',
  )
})
