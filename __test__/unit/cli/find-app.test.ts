import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'

import { Celery } from '../../../lib/app.ts'
import { findApp } from '../../../lib/cli/find-app.ts'
import { importModule } from '../../../lib/cli/import-module.ts'

const folder = join(import.meta.dirname, 'fixtures')
const main = async (name: string): Promise<string> => (await findApp(name, folder)).main

const failure = (code: string, ...texts: string[]): unknown =>
  expect.objectContaining({
    code,
    message: expect.stringMatching(new RegExp(texts.join('[^]*'))) as string,
  })

describe('where an app is found', () => {
  test.each([
    ['./typescript.ts', 'ts-plain-helped'],
    ['typescript', 'ts-plain-helped'],
    ['common-typescript.cts', 'cts'],
    ['module.mjs', 'mjs'],
    ['./module', 'mjs'],
    ['common.cjs', 'cjs'],
    ['default-export.js', 'default'],
    ['oddly-named', 'odd'],
    ['two.mjs:second', 'second'],
    ['module.mjs:other', 'other'],
    ['common.cjs:celery', 'cjs'],
    ['./package', 'package'],
    ['package.celery', 'package'],
    ['package.celery:app', 'package'],
  ])('%s', async (name, expected) => {
    expect(await main(name)).toBe(expected)
  })

  test('an absolute path is one too', async () => {
    expect(await main(join(folder, 'module.mjs'))).toBe('mjs')
  })

  test('a TypeScript module gets this very copy of celeriac', async () => {
    const exports = await importModule('typescript', folder)
    expect(exports['classOfApps']).toBe(Celery)
    expect(exports['celery']).toBeInstanceOf(Celery)
  })

  test('a module is run once, however often it is named', async () => {
    expect(await findApp('typescript', folder)).toBe(await findApp('./typescript.ts:celery', folder))
  })
})

describe('what is said where there is none', () => {
  test('a module that is not there: what was looked for', async () => {
    await expect(main('./nothing')).rejects.toThrow(
      failure('ERR_CELERIAC_MODULE_NOT_FOUND', "no module './nothing'", 'nothing\\.ts', 'nothing\\.cjs'),
    )
    await expect(main('some-package')).rejects.toThrow(
      failure('ERR_CELERIAC_MODULE_NOT_FOUND', 'some-package\\.ts', 'the package some-package'),
    )
  })

  test('a module without an app: what it exports', async () => {
    await expect(main('no-app')).rejects.toThrow(
      failure('ERR_CELERIAC_APP_NOT_FOUND', 'exports no app', 'count, name'),
    )
  })

  test('an export that is not there, or is no app', async () => {
    await expect(main('no-app:celery')).rejects.toThrow(
      failure('ERR_CELERIAC_APP_NOT_FOUND', 'no such export'),
    )
    await expect(main('no-app:count')).rejects.toThrow(
      failure('ERR_CELERIAC_APP_NOT_FOUND', 'of type number'),
    )
  })

  test('several apps: which there are', async () => {
    await expect(main('two.mjs')).rejects.toThrow(
      failure('ERR_CELERIAC_APP_NOT_FOUND', 'two.mjs:first or two.mjs:second'),
    )
  })

  test('a module that throws: its own error, with the place; it was run once', async () => {
    const error = await main('throws').catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(RangeError)
    expect((error as Error).stack).toMatch(/RangeError: on import[^]*throws\.mjs:2/)
    expect((globalThis as { celeriacImports?: number }).celeriacImports).toBe(1)
  })

  test('a module that imports what is not there: the name of that', async () => {
    await expect(main('missing-import')).rejects.toThrow(
      failure('ERR_CELERIAC_MODULE_NOT_FOUND', 'a-package-that-is-not-installed'),
    )
  })

  test.each(['mjs', 'ts'])(
    'a wrong setting in a .%s module: the code of that, and the place',
    async (extension) => {
      const place = mkdtempSync(join(tmpdir(), 'celeriac-app-'))
      try {
        const api = pathToFileURL(join(import.meta.dirname, '..', '..', '..', 'index.ts')).href
        writeFileSync(
          join(place, `wrong.${extension}`),
          `import { Celery } from '${extension === 'ts' ? 'celeriac' : api}'\nexport const app = new Celery('a', { workerLease: -1 })\n`,
        )
        await expect(findApp('wrong', place)).rejects.toThrow(
          failure('ERR_CELERIAC_INVALID_SETTING', `wrong\\.${extension}: the setting workerLease is -1`),
        )
      } finally {
        rmSync(place, { recursive: true })
      }
    },
  )

  test('a syntax error: what and where', async () => {
    // Made here: a file that cannot be parsed would stop the linters.
    const place = mkdtempSync(join(tmpdir(), 'celeriac-app-'))
    try {
      writeFileSync(join(place, 'broken.ts'), 'export const fine = 1\nexport const x: number = {\n')
      await expect(findApp('broken', place)).rejects.toThrow(/ParseError: [^]*broken\.ts:3/)
    } finally {
      rmSync(place, { recursive: true })
    }
  })
})
