import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'

import { FileSink } from '../../../lib/log/sink.ts'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'celeriac-log-'))
})

afterEach(() => {
  vi.useRealTimers()
  rmSync(folder, { recursive: true })
})

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('lines of one turn are written together, urgent ones at once with those before', async () => {
  const path = join(folder, 'log')
  const sink = FileSink.file(path)
  sink.write('one', false)
  expect(readFileSync(path, 'utf8')).toBe('')
  sink.write('two', true)
  expect(readFileSync(path, 'utf8')).toBe('one\ntwo\n')
  sink.write('three', false)
  await turn()
  expect(readFileSync(path, 'utf8')).toBe('one\ntwo\nthree\n')
  sink.close()
})

test('closing writes what is buffered; lines after that go nowhere', () => {
  const path = join(folder, 'log')
  const sink = FileSink.file(path)
  sink.write('last', false)
  sink.close()
  sink.write('late', true)
  expect(readFileSync(path, 'utf8')).toBe('last\n')
})

test('a file that was moved away is made anew', () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  const path = join(folder, 'log')
  const sink = FileSink.file(path)
  sink.write('old', true)
  renameSync(path, `${path}.1`)
  vi.advanceTimersByTime(2000)
  sink.write('new', true)
  expect([readFileSync(`${path}.1`, 'utf8'), readFileSync(path, 'utf8')]).toEqual(['old\n', 'new\n'])
  sink.close()
})

test('a file that cannot be opened is named', () => {
  expect(() => FileSink.file(join(folder, 'missing', 'log'))).toThrow(
    expect.objectContaining({
      code: 'ERR_CELERIAC_INVALID_ARGUMENT',
      message: expect.stringContaining('missing/log') as string,
    }),
  )
})

// Own processes, because the end of the process is what is tested.
test.each([
  ['process.exit', 'process.exit(3)'],
  ['an uncaught error', 'throw new Error("x")'],
  ['running out of work', ''],
])('nothing is lost at the end by %s', (_, ending) => {
  const path = join(folder, 'log')
  const source = `
    const { FileSink } = await jiti.import(${JSON.stringify(join(import.meta.dirname, '../../../lib/log/sink.ts'))})
    const sink = FileSink.file(${JSON.stringify(path)})
    for (let line = 0; line < 1000; line++) sink.write('line ' + line, false)
    ${ending}`
  const program = `import { createJiti } from 'jiti'; const jiti = createJiti(process.cwd() + '/x'); ${source}`
  spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    cwd: join(import.meta.dirname, '../../..'),
  })
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n')
  expect([lines.length, lines.at(-1)]).toEqual([1000, 'line 999'])
})
