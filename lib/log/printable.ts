import { isUtf8 } from 'node:buffer'

/** What a terminal may act on, or shows as nothing or in another order: control and format characters, line ends. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

/**
 * Text from outside in a form that a terminal only shows: control characters, those that turn the direction of the text, and
 * line ends are escaped, so that it stays one line and moves no cursor. All else is as it was.
 */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (character) => {
    const code = character.codePointAt(0) as number
    if (code < 0x100) return SHORT[character] ?? `\\x${hex(code, 2)}`
    return code < 0x10000 ? `\\u${hex(code, 4)}` : `\\u{${hex(code, 1)}}`
  })
}

/** {@link printable} for bytes: as text where they are text, else with each that is not ASCII escaped. */
export function printableBytes(bytes: Buffer): string {
  if (isUtf8(bytes)) return printable(bytes.toString())
  return printable(bytes.toString('latin1')).replace(/[\x80-\xff]/g, (it) => `\\x${hex(it.charCodeAt(0), 2)}`)
}

/** JSON text of a value that a terminal only shows; it means the same. */
export function printableJson(value: unknown): string {
  return JSON.stringify(value).replace(UNPRINTABLE, (characters) =>
    [...Array(characters.length).keys()]
      .map((index) => `\\u${hex(characters.charCodeAt(index), 4)}`)
      .join(''),
  )
}

const SHORT: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0')
}
