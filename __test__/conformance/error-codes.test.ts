import { expect, test } from 'vitest'

import { coreErrorCodes, isCeleriacErrorCode } from '../../lib/errors.ts'
import { native } from '../../lib/native.ts'

test('the core and TypeScript know the same error codes', () => {
  expect(native().errorCodes().toSorted()).toEqual([...coreErrorCodes])
  expect(coreErrorCodes.every(isCeleriacErrorCode)).toBe(true)
})
