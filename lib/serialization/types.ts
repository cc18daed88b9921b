import { CeleriacError } from '../errors.ts'

/** A value that has its own tag in kombu's JSON. */
export interface TypedValue {
  /** kombu's name of the type. */
  readonly jsonType: string
  /** What stands under `__value__`. */
  readonly jsonValue: unknown
}

const DATETIME =
  /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)(Z|[+-]\d\d:?\d\d(?::?\d\d(?:\.\d+)?)?)?)?$/
const DATE = /^\d{4}-\d\d-\d\d$/
const TIME = /^\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d(?::?\d\d)?)?$/
const DECIMAL = /^[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|s?nan\d*)$/i
const UUID = /^[0-9a-f]{32}$/

/**
 * Python's `datetime`: a Date that keeps the text it came from, so microseconds and offset go back unchanged. One
 * without an offset (a naive datetime) is taken as UTC when a Date is asked of it.
 */
export class DateTime extends Date implements TypedValue {
  readonly #iso: string
  readonly #milliseconds: number

  /** `iso` is ISO 8601, as Python's `isoformat` writes it. */
  constructor(iso: string) {
    const match = DATETIME.exec(iso)
    if (match === null) throw invalid('datetime', iso)
    const [, date, time = '00:00:00', offset = 'Z'] = match
    // JavaScript knows milliseconds and offsets of minutes.
    const short = time.replace(',', '.').replace(/(\.\d{3})\d+$/, '$1')
    const zone = offset === 'Z' ? 'Z' : offset.replace(/^([+-]\d\d):?(\d\d).*$/, '$1:$2')
    super(`${date}T${short}${zone}`)
    if (Number.isNaN(this.getTime())) throw invalid('datetime', iso)
    this.#iso = iso
    this.#milliseconds = this.getTime()
  }

  /** The text as it came; once the Date was changed (`setHours`), that of the Date, in UTC. */
  get iso(): string {
    return this.getTime() === this.#milliseconds ? this.#iso : pythonIsoFormat(this)
  }

  /** Whether it names no offset. */
  get naive(): boolean {
    return DATETIME.exec(this.iso)?.[3] === undefined
  }

  get jsonType(): string {
    return 'datetime'
  }

  get jsonValue(): string {
    return this.iso
  }

  override toString(): string {
    return this.iso
  }

  override toJSON(): string {
    return this.iso
  }

  /** Whether `other` has the same text, microseconds and offset included. */
  equals(other: unknown): boolean {
    return other instanceof DateTime && other.iso === this.iso
  }
}

/** A value that is its text. */
abstract class TextValue implements TypedValue {
  abstract readonly jsonType: string
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  get jsonValue(): unknown {
    return this.#text
  }

  toString(): string {
    return this.#text
  }

  toJSON(): string {
    return this.#text
  }

  /** Whether `other` is of the same class and has the same text. */
  equals(other: unknown): boolean {
    return other instanceof TextValue && other.jsonType === this.jsonType && other.#text === this.#text
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return `${this.constructor.name} { ${this.#text} }`
  }
}

/** Python's `date`: a day without a time, `2020-01-31`. */
export class PlainDate extends TextValue {
  readonly jsonType = 'date'

  constructor(text: string) {
    if (!DATE.test(text) || Number.isNaN(Date.parse(text))) throw invalid('date', text)
    super(text)
  }
}

/** Python's `time`: a time of day, `13:30:00.000001`, with an offset or without. */
export class PlainTime extends TextValue {
  readonly jsonType = 'time'

  constructor(text: string) {
    if (!TIME.test(text)) throw invalid('time', text)
    super(text)
  }
}

/** Python's `Decimal`, as text: give it to a decimal library, or to Number where precision does not matter. */
export class Decimal extends TextValue {
  readonly jsonType = 'decimal'

  constructor(text: string) {
    if (!DECIMAL.test(text)) throw invalid('decimal', text)
    super(text)
  }
}

/** Python's `UUID`: its text in lower case with dashes. Task ids are plain strings, not these. */
export class Uuid extends TextValue {
  readonly jsonType = 'uuid'

  constructor(text: string) {
    const hex = text
      .replace(/^urn:uuid:/i, '')
      .replace(/[-{}]/g, '')
      .toLowerCase()
    if (!UUID.test(hex)) throw invalid('uuid', text)
    super(hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'))
  }

  override get jsonValue(): { hex: string } {
    return { hex: this.toString().replaceAll('-', '') }
  }
}

/** A number that Python must see as a float: 1 would arrive as the integer 1, `new PyFloat(1)` arrives as 1.0. */
export class PyFloat {
  readonly value: number

  constructor(value: number) {
    this.value = value
  }

  valueOf(): number {
    return this.value
  }

  toJSON(): number {
    return this.value
  }

  toString(): string {
    return pythonFloat(this.value)
  }

  equals(other: unknown): boolean {
    return other instanceof PyFloat && Object.is(other.value, this.value)
  }
}

/** A float as Python's JSON has it. */
export function pythonFloat(value: number): string {
  if (Number.isNaN(value)) return 'NaN'
  if (value === Infinity) return 'Infinity'
  if (value === -Infinity) return '-Infinity'
  if (Object.is(value, -0)) return '-0.0'
  const text = String(value)
  return /^-?\d+$/.test(text) ? `${text}.0` : text
}

/** A time as Python's `isoformat` writes it, in UTC: `+00:00`, microseconds only when there are any. */
export function pythonIsoFormat(date: Date): string {
  const text = date.toISOString()
  return text.endsWith('.000Z') ? `${text.slice(0, -5)}+00:00` : `${text.slice(0, -1)}000+00:00`
}

function invalid(type: string, text: string): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', `'${text}' is no ${type}`)
}
