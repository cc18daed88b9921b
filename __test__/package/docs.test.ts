import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'

const root = join(import.meta.dirname, '..', '..')
const markdown = [
  '',
  'docs',
  'docs/decisions',
  'examples/dead-list',
  'examples/quick-start',
  'examples/with-python',
]
  .flatMap((folder) => readdirSync(join(root, folder)).map((name) => join(folder, name)))
  .filter((name) => name.endsWith('.md'))

interface Block {
  file: string
  line: number
  language: string
  /** The file of examples/ that it shows. */
  example: string | undefined
  code: string
}

function blocks(file: string): Block[] {
  const text = readFileSync(join(root, file), 'utf8')
  return [...text.matchAll(/^```(\w+)(?: example=(\S+))?\n(.*?)^```$/gms)].map((match) => ({
    file,
    line: text.slice(0, match.index).split('\n').length,
    language: match[1] as string,
    example: match[2],
    code: match[3] as string,
  }))
}

const all = markdown.flatMap(blocks)

test.each(all.filter(({ example }) => example !== undefined))(
  '$file shows examples/$example as it is',
  ({ example, code }) => {
    expect(code).toBe(readFileSync(join(root, 'examples', example as string), 'utf8'))
  },
)

test('what the documentation shows in TypeScript compiles', async () => {
  const folder = join(root, 'test-results', 'documentation')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const shown = all.filter(({ language, example }) => language === 'ts' && example === undefined)
  expect(shown).not.toHaveLength(0)
  for (const { file, line, code } of shown) {
    // Excerpts need not import what every page is about.
    const imports = code.includes('import ') ? '' : "import { Celery } from 'celeriac'\n"
    const surroundings = 'declare const testing: object, production: object\n'
    writeFileSync(join(folder, `${file.replaceAll(/\W/g, '_')}_${line}.ts`), imports + surroundings + code)
  }
  const options = {
    extends: '../../tsconfig.json',
    compilerOptions: { rootDir: '../..' },
    include: ['*.ts'],
    exclude: [],
  }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(options))
  const compiler = join(root, 'node_modules', '.bin', 'tsc')
  const said = await promisify(execFile)(compiler, ['-p', folder], { cwd: root }).then(
    () => '',
    (error: { stdout: string }) => error.stdout,
  )
  expect(said).toBe('')
})

describe('links', () => {
  test.each(markdown)('in %s lead somewhere', (file) => {
    const text = readFileSync(join(root, file), 'utf8')
    const targets = [...text.matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)].map((match) => match[1] as string)
    const missing = targets
      .filter((target) => !/^\w+:/.test(target))
      .filter((target) => !existsSync(join(root, dirname(file), target)))
    expect(missing).toEqual([])
  })
})

test('docs/errors.md has every code once, and no other', () => {
  const codes = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map((match) => match[1])
  const source = readFileSync(join(root, 'lib/errors.ts'), 'utf8')
  const documented = codes(readFileSync(join(root, 'docs/errors.md'), 'utf8'), /^\| `(ERR_CELERIAC_\w+)`/gm)
  expect(documented.toSorted()).toEqual([...new Set(codes(source, /'(ERR_CELERIAC_\w+)'/g))].toSorted())
})

test('every file of the reliability tests holds an invariant of docs/reliability.md, and every one that it names is there', () => {
  const files = readdirSync(join(root, '__test__', 'reliability')).map((name) => name.replace('.test.ts', ''))
  const rows = readFileSync(join(root, 'docs', 'reliability.md'), 'utf8').match(/^\| \d+ \|.*$/gm) ?? []
  expect(rows.map((row) => row.split('|')[1]?.trim())).toEqual(rows.map((_, index) => `${index + 1}`))
  const named = rows.flatMap((row) => row.split('|')[7]?.match(/[\w-]+/g) ?? [])
  // That one is about the harness itself.
  expect(new Set(named)).toEqual(new Set(files.filter((name) => name !== 'brokers')))
})
