import { existsSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { expect, test } from 'vitest'
import setUp from '../../support/run-folder.ts'
import { temporaryFolder } from '../../support/servers.ts'

test('what tests make lies in the folder of their run', () => {
  expect(dirname(temporaryFolder())).toBe(tmpdir())
  expect(basename(tmpdir())).toMatch(/^celeriac-\w{6}$/)
})

test('a run removes its folder with all that is left in it, and leaves the environment as it was', () => {
  const before = { ...process.env }
  const around = tmpdir()
  const tearDown = setUp()
  const folder = tmpdir()
  expect(dirname(folder)).toBe(around)
  const left = join(temporaryFolder(), 'left')
  writeFileSync(left, '')
  expect(left.startsWith(folder)).toBe(true)
  tearDown()
  expect([existsSync(folder), existsSync(around)]).toEqual([false, true])
  expect(process.env).toEqual(before)
})
