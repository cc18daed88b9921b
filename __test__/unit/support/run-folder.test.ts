import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import setUp from '../../support/run-folder.ts'
import { temporaryFolder } from '../../support/servers.ts'

vi.mock(import('node:fs'), { spy: true })

/** The folder that `npm test` gave this very run. */
beforeEach(() => {
  vi.stubEnv('CELERIAC_RUN_FOLDER', undefined)
})
afterEach(() => {
  vi.unstubAllEnvs()
})

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

test('a folder that the run was given is used and left to whoever gave it', () => {
  const given = temporaryFolder()
  vi.stubEnv('CELERIAC_RUN_FOLDER', given)
  const before = { ...process.env }
  const tearDown = setUp()
  expect(tmpdir()).toBe(given)
  tearDown()
  expect(existsSync(given)).toBe(true)
  expect(process.env).toEqual(before)
})

test('a folder that cannot be removed fails no run: one line says so', () => {
  const said = vi.spyOn(console, 'error').mockReturnValue()
  const tearDown = setUp()
  const folder = tmpdir()
  vi.mocked(rmSync).mockImplementationOnce(() => {
    throw new Error('ENOTEMPTY: directory not empty')
  })
  tearDown()
  expect(said.mock.calls).toEqual([[`${folder} could not be removed: ENOTEMPTY: directory not empty`]])
  said.mockRestore()
  rmSync(folder, { recursive: true })
})
