import { safeText } from '../errors.ts'
import { exceptionDocument } from '../results/exception.ts'
import { encodeJson } from '../serialization/encode.ts'

const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' }

/** A string as Python's `repr` writes it. */
export function pythonString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  const escaped = text.replace(/[\\\p{Cc}]/gu, (character) => {
    const known = ESCAPES[character]
    return known ?? `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`
  })
  return `${quote}${quote === "'" ? escaped.replaceAll("'", "\\'") : escaped}${quote}`
}

/** A thrown value as Python shows an exception: `TypeError('x is not a function')`. */
export function exceptionRepr(error: unknown): string {
  const { exc_type: type, exc_message: args } = exceptionDocument(error)
  return `${type}(${args.map(argumentRepr).join(', ')})`
}

function argumentRepr(arg: unknown): string {
  if (typeof arg === 'string') return pythonString(arg)
  if (arg === undefined) return 'None'
  try {
    return encodeJson(arg, 'args')
  } catch {
    return safeText(arg)
  }
}
