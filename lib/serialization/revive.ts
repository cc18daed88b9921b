import { CeleriacError } from '../errors.ts'
import { DateTime, Decimal, PlainDate, PlainTime, Uuid } from './types.ts'

/** The value of JSON text from the core; `tagged` says that it holds kombu's tags. */
export function decodeJson(text: string, tagged: boolean): unknown {
  const value: unknown = JSON.parse(text)
  return tagged ? revive(value) : value
}

/** A parsed value with its tags replaced by what they mean; arrays and objects are changed in place. */
export function revive(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) value[index] = revive(value[index])
    return value
  }
  const object = value as Record<string, unknown>
  const keys = Object.keys(object)
  if (keys.length === 2 && Object.hasOwn(object, '__type__') && Object.hasOwn(object, '__value__')) {
    return reviveTag(object['__type__'], object['__value__'])
  }
  for (const key of keys) {
    const revived = revive(object[key])
    // Assigning to __proto__ would set the prototype.
    if (key === '__proto__') {
      Object.defineProperty(object, key, {
        value: revived,
        enumerable: true,
        configurable: true,
        writable: true,
      })
    } else object[key] = revived
  }
  return value
}

const REVIVERS: Record<string, (value: unknown) => unknown> = {
  datetime: (value) => new DateTime(text(value)),
  date: (value) => new PlainDate(text(value).slice(0, 10)),
  time: (value) => new PlainTime(text(value)),
  decimal: (value) => new Decimal(text(value)),
  uuid: (value) => new Uuid(text((value as { hex?: unknown } | null)?.hex)),
  bytes: (value) => Buffer.from(text(value), 'utf8'),
  base64: (value) => Buffer.from(text(value), 'base64'),
  float: (value) => FLOATS[text(value)],
  int: (value) => BigInt(text(value)),
}

const FLOATS: Record<string, number> = { nan: NaN, inf: Infinity, '-inf': -Infinity }

function reviveTag(type: unknown, value: unknown): unknown {
  const reviver = typeof type === 'string' && Object.hasOwn(REVIVERS, type) ? REVIVERS[type] : undefined
  if (reviver === undefined) {
    throw new CeleriacError('ERR_CELERIAC_DECODE', `kombu knows no type '${String(type)}' in JSON`)
  }
  return reviver(value)
}

function text(value: unknown): string {
  if (typeof value !== 'string') {
    throw new CeleriacError('ERR_CELERIAC_DECODE', `a typed value needs text, not ${JSON.stringify(value)}`)
  }
  return value
}
