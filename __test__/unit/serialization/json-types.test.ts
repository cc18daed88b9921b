import { readFileSync } from 'node:fs'

import { describe, expect, test } from 'vitest'

import { encodeJson } from '../../../lib/serialization/encode.ts'
import { DateTime, Decimal, PlainDate, PlainTime, PyFloat, Uuid } from '../../../lib/serialization/types.ts'

const document = readFileSync(new URL('../../../docs/json-types.md', import.meta.url), 'utf8')

/** The code in the first cells of the rows of the table under a heading. */
function rows(heading: string): string[][] {
  const [, section = ''] = document.split(`## ${heading}\n`)
  const lines = section.split('\n## ')[0]?.split('\n') ?? []
  return lines
    .filter((line) => line.startsWith('| `'))
    .map((line) => [...line.matchAll(/\| `([^`]*)`/g)].map((cell) => cell[1] ?? ''))
}

const scope = { DateTime, Decimal, PlainDate, PlainTime, PyFloat, Uuid }

function evaluate(code: string): unknown {
  // eslint-disable-next-line no-new-func -- the documentation's own code
  return new Function(...Object.keys(scope), `return (${code})`)(...Object.values(scope)) as unknown
}

describe('docs/json-types.md', () => {
  const sent = rows('From JavaScript')
  const refused = rows('What is refused')

  test('has its tables', () => {
    expect([sent.length, refused.length]).toEqual([24, 9])
  })

  test.each(sent)('%s is %s', (code, text) => {
    expect(encodeJson([evaluate(code as string)], 'args').replaceAll(' ', '')).toBe(
      `[${text}]`.replaceAll(' ', ''),
    )
  })

  test.each(refused)('%s is refused', (code) => {
    expect(() => encodeJson([evaluate(code as string)], 'args')).toThrow(
      expect.objectContaining({ code: 'ERR_CELERIAC_ENCODE' }),
    )
  })
})
