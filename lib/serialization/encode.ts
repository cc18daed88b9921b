import { types } from 'node:util'

import { CeleriacError } from '../errors.ts'
import { DateTime, PyFloat, pythonFloat, pythonIsoFormat, type TypedValue } from './types.ts'

/**
 * kombu's JSON of a value, in Python's dialect: NaN, the infinities and integers of any size as tokens, special types
 * as tags (docs/json-types.md). `what` names the value in errors, such as `args`.
 *
 * Throws ERR_CELERIAC_ENCODE, which names the path, for what JSON has no form for.
 */
export function encodeJson(value: unknown, what: string): string {
  ancestors.length = 0
  if (isPlain(value)) return JSON.stringify(value)
  return write(value, { path: [what], above: new Set(), tagged: false, levels: MAX_LEVELS })
}

/**
 * {@link encodeJson} with tags where Python's dialect has tokens that `JSON.parse` does not read, as the core gives
 * them to JavaScript: `decodeJson(text, true)` reads it.
 */
export function encodeTagged(value: unknown, what: string): string {
  return write(value, { path: [what], above: new Set(), tagged: true, levels: MAX_LEVELS })
}

/** Whether {@link encodeJson} takes a value, also with a few more levels around it. */
export function canEncode(value: unknown): boolean {
  try {
    write(value, { path: ['value'], above: new Set(), tagged: false, levels: MAX_LEVELS - ROOM_FOR_ERRORS })
    return true
  } catch {
    return false
  }
}

/**
 * How many containers may lie in one another: what the core reads (`MAX_DEPTH` in crates/celeriac-protocol), less what
 * it and other senders put around a value.
 */
const MAX_LEVELS = 190

/** The levels that the document of an exception has around its arguments, and more. */
const ROOM_FOR_ERRORS = 8

const OBJECT = Object.prototype

/** The objects that the value under examination is in. Few, so looking through them is quicker than a set. */
const ancestors: object[] = []

/** Whether `JSON.stringify` alone gives the right text. */
function isPlain(value: unknown): boolean {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return true
    case 'number':
      // -0 is a float in Python; integers from 1e21 on would be written as floats.
      return value === 0 ? !Object.is(value, -0) : value < 1e21 && value > -1e21
    case 'object':
      if (value === null) return true
      // Circular, or deeper than is usual: the other way counts levels and names the path.
      if (ancestors.length > MAX_PLAIN_DEPTH || ancestors.includes(value)) return false
      ancestors.push(value)
      if (!(Array.isArray(value) ? isPlainArray(value) : isPlainObject(value))) return false
      ancestors.pop()
      return true
    default:
      return false
  }
}

const MAX_PLAIN_DEPTH = 100

function isPlainArray(array: readonly unknown[]): boolean {
  if ('toJSON' in array) return false
  for (let index = 0; index < array.length; index++) if (!isPlain(array[index])) return false
  return true
}

function isPlainObject(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== OBJECT && prototype !== null) return false
  for (const key in value) {
    // Tags and toJSON need a closer look.
    if (key === '__type__' || key === 'toJSON') return false
    if (!isPlain((value as Record<string, unknown>)[key])) return false
  }
  return true
}

interface Position {
  /** The way to the value: keys, and array indices as numbers. */
  readonly path: Array<string | number>
  /** The objects that the value is in. */
  readonly above: Set<object>
  /** Whether numbers that JSON lacks are written as tags, rather than as Python's tokens. */
  readonly tagged: boolean
  /** How many containers may lie in one another. */
  readonly levels: number
}

function write(value: unknown, at: Position): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value)
    case 'boolean':
      return value ? 'true' : 'false'
    case 'number':
      return at.tagged && !Number.isFinite(value)
        ? tag('float', FLOAT_TAGS[String(value)] as string)
        : writeNumber(value)
    case 'bigint':
      return at.tagged ? tag('int', `"${value}"`) : value.toString()
    case 'undefined':
      return 'null'
    case 'function':
    case 'symbol':
      throw refusal(at, `is a ${typeof value}, and JSON has no form for it`)
    default:
      return value === null ? 'null' : writeObject(value as object, at)
  }
}

const FLOAT_TAGS: Readonly<Record<string, string>> = {
  NaN: '"nan"',
  Infinity: '"inf"',
  '-Infinity': '"-inf"',
}

function writeNumber(value: number): string {
  if (Number.isFinite(value) && !Object.is(value, -0)) {
    return Number.isInteger(value) && Math.abs(value) >= 1e21 ? pythonFloat(value) : String(value)
  }
  return pythonFloat(value)
}

function writeObject(value: object, at: Position): string {
  if (at.above.has(value)) throw refusal(at, 'is circular: it contains itself')
  // The path has a step for each container around this one, and the name that it begins with.
  if (at.path.length > at.levels) {
    throw refusal(at, `nests deeper than ${at.levels} levels: flatten it, or send it as text`)
  }
  at.above.add(value)
  const text = writeKind(value, at)
  at.above.delete(value)
  return text
}

function writeKind(value: object, at: Position): string {
  if (Array.isArray(value)) return writeArray(value, at)
  if (value instanceof Date) return writeDate(value, at)
  if (isTypedValue(value)) return tag(value.jsonType, JSON.stringify(value.jsonValue))
  if (value instanceof PyFloat)
    return Number.isFinite(value.value) ? pythonFloat(value.value) : write(value.value, at)
  if (value instanceof Uint8Array) return writeBytes(value)
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    throw refusal(at, `is of type ${typeOf(value)}: pass a Buffer for bytes, or an array of numbers`)
  }
  const { toJSON } = value as { toJSON?: unknown }
  if (typeof toJSON === 'function') return write(toJSON.call(value, String(at.path.at(-1))), at)
  if (types.isBoxedPrimitive(value)) return write(value.valueOf(), at)
  if (isThenable(value)) throw refusal(at, 'is a promise: await it first')
  if (value instanceof Map || value instanceof Set || value instanceof WeakMap || value instanceof WeakSet) {
    const remedy = value instanceof Map ? 'Object.fromEntries(it)' : '[...it]'
    throw refusal(at, `is a ${typeOf(value)}, which Celery's JSON has no form for: pass ${remedy}`)
  }
  if (value instanceof Error)
    throw refusal(at, 'is an Error, of which JSON would keep nothing: pass its message')
  return writeMembers(value as Record<string, unknown>, at)
}

function writeArray(array: readonly unknown[], at: Position): string {
  const parts: string[] = []
  for (let index = 0; index < array.length; index++) {
    at.path.push(index)
    parts.push(write(array[index], at))
    at.path.pop()
  }
  return `[${parts.join(', ')}]`
}

function writeMembers(object: Record<string, unknown>, at: Position): string {
  const keys = Object.keys(object)
  if (keys.length === 2 && keys.includes('__type__') && keys.includes('__value__')) {
    throw refusal(
      at,
      'has exactly the keys __type__ and __value__, which kombu takes for a typed value: use one of the classes ' +
        '(DateTime, PlainDate, PlainTime, Decimal, Uuid, Buffer), or give the object another key',
    )
  }
  const parts: string[] = []
  for (const key of keys) {
    const value = object[key]
    if (value === undefined) continue
    at.path.push(key)
    parts.push(`${JSON.stringify(key)}: ${write(value, at)}`)
    at.path.pop()
  }
  return `{${parts.join(', ')}}`
}

function writeDate(date: Date, at: Position): string {
  if (Number.isNaN(date.getTime())) throw refusal(at, 'is an invalid Date')
  return tag('datetime', JSON.stringify(date instanceof DateTime ? date.iso : pythonIsoFormat(date)))
}

/** Bytes that are UTF-8 travel as text, others in base64: as kombu does. */
function writeBytes(bytes: Uint8Array): string {
  try {
    return tag(
      'bytes',
      JSON.stringify(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)),
    )
  } catch {
    const { buffer, byteOffset, byteLength } = bytes
    return tag('base64', JSON.stringify(Buffer.from(buffer, byteOffset, byteLength).toString('base64')))
  }
}

function tag(type: string, value: string): string {
  return `{"__type__": "${type}", "__value__": ${value}}`
}

function isTypedValue(value: object): value is TypedValue {
  return typeof (value as Partial<TypedValue>).jsonType === 'string' && 'jsonValue' in value
}

function isThenable(value: object): boolean {
  return typeof (value as { then?: unknown }).then === 'function'
}

function typeOf(value: object): string {
  return value.constructor?.name ?? 'object'
}

function refusal(at: Position, why: string): CeleriacError {
  const path = at.path
    .slice(0, MAX_STEPS_SHOWN)
    .map((step, index) => {
      if (typeof step === 'number') return `[${step}]`
      if (index === 0) return step
      return /^[\p{L}_$][\p{L}\p{N}_$]*$/u.test(step) ? `.${step}` : `[${JSON.stringify(step)}]`
    })
    .join('')
  const more = at.path.length > MAX_STEPS_SHOWN ? ` … (${at.path.length} steps)` : ''
  return new CeleriacError('ERR_CELERIAC_ENCODE', `cannot send ${path}${more}: it ${why}`)
}

/** How much of a path an error shows. */
const MAX_STEPS_SHOWN = 20
