/** What Celery calls the type of a setting. */
export type SettingType = 'any' | 'bool' | 'bytes' | 'dict' | 'float' | 'int' | 'list' | 'string'

/** Checks the value of one setting and gives it its final shape. */
export interface Parser<T> {
  /** The type that Celery declares, or would. */
  readonly type: SettingType
  /** What is right, as it follows "expected" in an error. */
  readonly expected: string
  /** Returns the checked value, a copy where it is an object; throws {@link Mismatch}. */
  parse(value: unknown): T
  /** Makes a value out of the text of an environment variable or a command line; `parse` then checks it. */
  fromText(text: string): unknown
}

/** A setting as declared: how to read it and what it is when nobody set it. */
export interface Definition<T> {
  readonly parser: Parser<T>
  /** Celery's default. */
  readonly default: T
}

/** One definition for each setting of an area. */
export type Table<S> = { readonly [K in keyof S]-?: Definition<S[K]> }

/** A value that its setting does not allow. */
export class Mismatch extends Error {
  /** Where inside of the value, such as `.fast.durable`; empty for the whole value. */
  readonly path: string
  /** What would be right there. */
  readonly expected: string
  /** What was found there. */
  readonly found: unknown

  constructor(expected: string, found: unknown, path = '') {
    super(`expected ${expected}`)
    this.path = path
    this.expected = expected
    this.found = found
  }

  /** The same mismatch, seen from the object around it. */
  within(path: string): Mismatch {
    return new Mismatch(this.expected, this.found, path + this.path)
  }
}

/** Declares a setting. */
export function setting<T>(parser: Parser<T>, fallback: NoInfer<T>): Definition<T> {
  return { parser, default: fallback }
}

function parser<T>(
  type: SettingType,
  expected: string,
  accepts: (value: unknown) => value is T,
  fromText: (text: string) => unknown = (text) => text,
): Parser<T> {
  return {
    type,
    expected,
    fromText,
    parse(value) {
      if (accepts(value)) return value
      throw new Mismatch(expected, value)
    },
  }
}

const TRUE_WORDS: ReadonlySet<string> = new Set(['true', 'yes', '1', 'on'])
const FALSE_WORDS: ReadonlySet<string> = new Set(['false', 'no', '0', 'off'])

/** true or false; as text also yes, no, on, off, 1 and 0, as in Celery. */
export const bool: Parser<boolean> = parser(
  'bool',
  'true or false',
  (value): value is boolean => typeof value === 'boolean',
  (text) => {
    const word = text.trim().toLowerCase()
    return TRUE_WORDS.has(word) ? true : FALSE_WORDS.has(word) ? false : text
  },
)

function numberFromText(text: string): unknown {
  const trimmed = text.trim()
  if (/^[+-]?inf(inity)?$/i.test(trimmed)) return trimmed.startsWith('-') ? -Infinity : Infinity
  return trimmed === '' || Number.isNaN(Number(trimmed)) ? text : Number(trimmed)
}

/** A whole number of at least `minimum`. */
export function int(minimum = 0): Parser<number> {
  return parser(
    'int',
    `a whole number of ${minimum} or more`,
    (value): value is number => Number.isSafeInteger(value) && (value as number) >= minimum,
    numberFromText,
  )
}

/** A number of at least `minimum`; Infinity is one. */
export function number(minimum = 0): Parser<number> {
  return parser(
    'float',
    `a number of ${minimum} or more`,
    (value): value is number => typeof value === 'number' && value >= minimum,
    numberFromText,
  )
}

/** A time in seconds, fractions allowed. */
export const seconds: Parser<number> = parser(
  'float',
  'a number of seconds, 0 or more',
  (value): value is number => typeof value === 'number' && Number.isFinite(value) && value >= 0,
  numberFromText,
)

/** A time in seconds of a range, its ends included. */
export function secondsWithin(minimum: number, maximum: number): Parser<number> {
  return parser(
    'float',
    `a number of seconds from ${minimum} to ${maximum}`,
    (value): value is number => typeof value === 'number' && value >= minimum && value <= maximum,
    numberFromText,
  )
}

/** A time in seconds where Celery declares a whole number; fractions do no harm. */
export const wholeSeconds: Parser<number> = { ...seconds, type: 'int' }

/** Any text. */
export const string: Parser<string> = parser(
  'string',
  'a string',
  (value): value is string => typeof value === 'string',
)

/** Text that says something. */
export const name: Parser<string> = parser(
  'string',
  'a string that is not empty',
  (value): value is string => typeof value === 'string' && value !== '',
)

/** Text, or a number that stands for it. */
export const stringOrNumber: Parser<string | number> = parser(
  'string',
  'a string or a number',
  (value): value is string | number => typeof value === 'string' || Number.isFinite(value),
)

/** Text or bytes. */
export const bytes: Parser<string | Uint8Array> = parser(
  'bytes',
  'a string or a Buffer',
  (value): value is string | Uint8Array => typeof value === 'string' || value instanceof Uint8Array,
)

/** One of some values. Numbers among them may be given as text. */
export function choice<const C extends string | number>(type: SettingType, ...choices: C[]): Parser<C> {
  return parser(
    type,
    `one of ${choices.map((each) => JSON.stringify(each)).join(', ')}`,
    (value): value is C => choices.includes(value as C),
    (text) => choices.find((each) => String(each) === text.trim()) ?? text,
  )
}

/** The name of a time zone in the IANA database, or an offset such as `+02:00`. */
export const timezone: Parser<string> = parser(
  'string',
  'the name of a time zone, such as "Europe/Berlin"',
  (value): value is string => {
    if (typeof value !== 'string') return false
    try {
      new Intl.DateTimeFormat('en', { timeZone: value })
      return true
    } catch {
      return false
    }
  },
)

/** One URL, or several to fail over to: an array, or one text with `;` between them. */
export const urls: Parser<string | readonly string[]> = parser(
  'string',
  'a URL, or several in an array',
  (value): value is string | readonly string[] =>
    typeof value === 'string' ||
    (Array.isArray(value) && value.length > 0 && value.every((each) => typeof each === 'string')),
)

/** An array of texts; as text, with commas between them. One text alone stands for an array of one. */
export const list: Parser<readonly string[]> = {
  type: 'list',
  expected: 'an array of strings',
  fromText: (text) =>
    text
      .split(',')
      .map((each) => each.trim())
      .filter((each) => each !== ''),
  parse(value) {
    if (typeof value === 'string') return [value]
    if (!Array.isArray(value)) throw new Mismatch(list.expected, value)
    return value.map((each: unknown, index) => {
      if (typeof each !== 'string') throw new Mismatch('a string', each, `[${index}]`)
      return each
    })
  },
}

/** Whether a value is an object with keys: no array, no Map, no instance of a class. */
export function isDictionary(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype
}

/** Reads JSON; text that is none stays text, and so is refused by what comes after. */
export function jsonFromText(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return text
  }
}

/** An object with any keys and values; as text, JSON. */
export const dict: Parser<Record<string, unknown>> = {
  type: 'dict',
  expected: 'an object',
  fromText: jsonFromText,
  parse(value) {
    if (!isDictionary(value)) throw new Mismatch(dict.expected, value)
    return { ...value }
  },
}

/** An object whose values all are text. */
export const strings: Parser<Record<string, string>> = {
  type: 'dict',
  expected: 'an object of strings',
  fromText: jsonFromText,
  parse(value) {
    if (!isDictionary(value)) throw new Mismatch(strings.expected, value)
    for (const [key, each] of Object.entries(value)) {
      if (typeof each !== 'string') throw new Mismatch('a string', each, `.${key}`)
    }
    return { ...value } as Record<string, string>
  },
}

/** Either of two; `first` is asked first, also about text. */
export function either<A, B>(first: Parser<A>, second: Parser<B>, type = second.type): Parser<A | B> {
  return {
    type,
    expected: `${first.expected}, or ${second.expected}`,
    fromText: (text) => {
      const value = first.fromText(text)
      return fits(first, value) ? value : second.fromText(text)
    },
    parse(value) {
      if (fits(first, value)) return first.parse(value)
      try {
        return second.parse(value)
      } catch (error) {
        if (error instanceof Mismatch && error.path === '') throw new Mismatch(this.expected, value)
        throw error
      }
    },
  }
}

function fits(parser: Parser<unknown>, value: unknown): boolean {
  try {
    parser.parse(value)
    return true
  } catch (error) {
    if (error instanceof Mismatch) return false
    throw error
  }
}

/** Also null, which is Python's None; as text: nothing, `null` or `none`. */
export function nullable<T>(parser: Parser<T>): Parser<T | null> {
  return {
    type: parser.type,
    expected: `${parser.expected}, or null`,
    fromText: (text) => (/^(null|none)?$/i.test(text.trim()) ? null : parser.fromText(text)),
    parse(value) {
      if (value === null) return null
      try {
        return parser.parse(value)
      } catch (error) {
        if (error instanceof Mismatch && error.path === '') throw new Mismatch(this.expected, value)
        throw error
      }
    },
  }
}

/** A function of the type `F`; what it takes and returns cannot be checked. */
export function callable<F extends (...parameters: never[]) => unknown>(expected: string): Parser<F> {
  return parser('any', expected, (value): value is F => typeof value === 'function')
}

/** What `check` makes of the value; it throws {@link Mismatch} for what does not fit. As text, JSON. */
export function checked<T>(type: SettingType, expected: string, check: (value: unknown) => T): Parser<T> {
  return { type, expected, fromText: jsonFromText, parse: check }
}
