import { execFile, execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  binaryName,
  optionalDependencies,
  platformHere,
  platforms,
} from '../../scripts/support/platforms.mjs'
import {
  bareEnvironment,
  bareNode,
  copyOfClone,
  installedPackages,
  npm,
  npx,
  pack,
  packDependencies,
  type Packed,
  platform,
  platformOptions,
  Registry,
  releaseBinary,
  replaceBinary,
} from '../support/package.ts'
import { temporaryFolder } from '../support/servers.ts'

const root = join(import.meta.dirname, '..', '..')
const exec = promisify(execFile)

/** npm runs these when a package is installed; `prepare` only where it comes from a repository. */
const INSTALL_SCRIPTS = ['preinstall', 'install', 'postinstall', 'prepare']

let clone: string
let main: Packed
let binary: Packed
/** Has everything. */
let registry: Registry
/** Has what others have published, and nothing of ours. */
let unpublished: Registry

beforeAll(async () => {
  clone = copyOfClone()
  const tarballs = temporaryFolder()
  const folders = platforms.map((name) => join(clone, 'npm', name))
  const [ours, ...bindings] = await pack([clone, ...folders], tarballs)
  main = ours as Packed
  binary = bindings.find(({ name }) => name === `@celeriac/binding-${platform}`) as Packed
  const others = await packDependencies(Object.keys(main.manifest.dependencies ?? {}), tarballs)
  registry = await new Registry([main, ...bindings, ...others]).start()
  unpublished = await new Registry(others).start()
})

afterAll(async () => {
  await registry?.stop()
  await unpublished?.stop()
})

/** An empty folder in which packages were installed: tarballs, and what they need from the registry. */
async function installed(args: string[], from: Registry = registry): Promise<string> {
  const folder = temporaryFolder()
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'sample', private: true }))
  writeFileSync(join(folder, '.npmrc'), `registry=${from.url}\n`)
  await npm(['install', ...args], folder)
  return folder
}

describe('what is packed', () => {
  test('of celeriac is the JavaScript with its types, the loader, and what npm always packs', () => {
    const other = main.files.filter(
      (path) =>
        !/^dist\/(index|lib\/.+)\.(js|js\.map|d\.ts)$/.test(path) &&
        !['native.cjs', 'native.d.cts', 'package.json', 'README.md', 'LICENSE'].includes(path),
    )
    expect(other).toEqual([])
    expect(main.files).toContain('dist/lib/cli/main.js')
    expect(main.files).toContain('LICENSE')
  })

  test('for a platform is its binary and nothing to run', () => {
    expect(binary.files.toSorted()).toEqual(['README.md', binaryName(platform), 'package.json'])
  })

  test('is no larger than the README says', () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8')
    const [, binarySize, packedSize] =
      /A binary has at most (\d+) MB, of\s+which npm loads (\d+)\./.exec(readme) ?? []
    expect(binary.unpackedSize).toBeLessThan(Number(binarySize) * 1e6)
    expect(binary.size).toBeLessThan(Number(packedSize) * 1e6)
  })

  test('has no install scripts, nor what npm makes one of', () => {
    for (const { manifest, files } of [main, binary]) {
      expect(Object.keys(manifest.scripts ?? {}).filter((name) => INSTALL_SCRIPTS.includes(name))).toEqual([])
      expect(files.filter((path) => path.endsWith('.gyp'))).toEqual([])
    }
  })

  test('names the binary of every platform by the exact version of celeriac', () => {
    const names = platforms.map((name) => `@celeriac/binding-${name}`)
    expect(main.manifest.optionalDependencies).toEqual(
      Object.fromEntries(names.map((name) => [name, main.version])),
    )
    expect(binary.version).toBe(main.version)
  })

  test('leaves package.json as it was', () => {
    const file = 'package.json'
    expect(readFileSync(join(clone, file), 'utf8')).toBe(readFileSync(join(root, file), 'utf8'))
  })

  test('maps its JavaScript to sources that it has', () => {
    const maps = main.files.filter((path) => path.endsWith('.map'))
    expect(maps).not.toHaveLength(0)
    const without = maps.filter((path) => {
      const map = JSON.parse(readFileSync(join(clone, path), 'utf8')) as { sourcesContent?: unknown[] }
      return !map.sourcesContent?.every((source) => typeof source === 'string')
    })
    expect(without).toEqual([])
  })
})

describe('npm install', () => {
  const bindings = (folder: string): string[] =>
    [...installedPackages(folder).keys()].filter((path) => path.startsWith('@celeriac/'))

  test.each(platforms)('on %s takes the binary of that platform, and no other', async (name) => {
    const folder = await installed(['celeriac', ...platformOptions(name)])
    expect(bindings(folder)).toEqual([`@celeriac/binding-${name}`])
  })

  test('succeeds where no binary fits: it is optional', async () => {
    const folder = await installed(['celeriac', '--os', 'freebsd'])
    expect(bindings(folder)).toEqual([])
    expect(installedPackages(folder).has('celeriac')).toBe(true)
  })
})

describe('an empty folder, on a machine without compilers, in which both tarballs were installed,', () => {
  let folder: string

  beforeAll(async () => {
    // What is named and does not fit the machine at hand is refused otherwise.
    const force = platform === platformHere() ? [] : ['--force']
    folder = await installed([main.file, binary.file, ...platformOptions(platform), ...force], unpublished)
  })

  // Where there is a shell.
  test.each(process.platform === 'win32' ? [] : ['finds none of them'])('%s', () => {
    for (const command of ['cargo', 'rustc', 'cc', 'gcc', 'clang', 'make', 'python', 'python3', 'node-gyp']) {
      expect(() =>
        execFileSync('/bin/sh', ['-c', `command -v ${command}`], { env: bareEnvironment() }),
      ).toThrow('Command failed')
    }
  })

  test('has no package with an install script', () => {
    const packages = installedPackages(folder)
    expect([...packages.keys()]).toContain('commander')
    const scripts = [...packages].flatMap(([name, { scripts = {} }]) =>
      ['preinstall', 'install', 'postinstall']
        .filter((script) => script in scripts)
        .map((script) => [name, script]),
    )
    expect(scripts).toEqual([])
    const recipes = [...packages.keys()].filter((name) =>
      readdirSync(join(folder, 'node_modules', name)).includes('binding.gyp'),
    )
    expect(recipes).toEqual([])
  })

  test('imports and requires the same', async () => {
    writeFileSync(
      join(folder, 'import.mjs'),
      `import * as imported from 'celeriac'
       import { createRequire } from 'node:module'
       const required = createRequire(import.meta.url)('celeriac')
       const names = Object.keys(imported).filter((name) => imported[name] === required[name])
       console.log(JSON.stringify([names.includes('Celery'), Object.keys(imported).length - names.length]))`,
    )
    writeFileSync(
      join(folder, 'require.cjs'),
      `const { Celery } = require('celeriac')
       console.log(new Celery('sample', { broker: 'memory://' }).main)`,
    )
    const imported = await bareNode(['import.mjs'], folder).finished
    expect(imported).toMatchObject({ code: 0, stdout: '[true,0]\n', stderr: '' })
    const required = await bareNode(['require.cjs'], folder).finished
    expect(required).toMatchObject({ code: 0, stdout: 'sample\n', stderr: '' })
  })

  test('runs a task in the same process', async () => {
    writeFileSync(
      join(folder, 'memory.cjs'),
      `const { Celery, Worker } = require('celeriac')
       const app = new Celery('sample', { broker: 'memory://', backend: 'cache+memory://' })
       const add = app.task({ name: 'sample.add' }, (x, y) => x + y)
       const main = async () => {
         const worker = new Worker(app)
         await worker.start()
         const sum = await add.delay(2, 3)
         console.log(await sum.get({ timeout: 60 }))
         await worker.stop()
         await app.close()
       }
       main()`,
    )
    const { code, stdout, stderr } = await bareNode(['memory.cjs'], folder).finished
    expect(stdout, stderr).toBe('5\n')
    expect(code).toBe(0)
  })

  test('runs a task in a worker of its own', async () => {
    writeFileSync(
      join(folder, 'tasks.mjs'),
      `import { Celery } from 'celeriac'
       export const app = new Celery('sample')
       export const add = app.task({ name: 'sample.add' }, (x, y) => x + y)`,
    )
    writeFileSync(
      join(folder, 'producer.mjs'),
      `import { add, app } from './tasks.mjs'
       const sum = await add.delay(20, 3)
       console.log(await sum.get({ timeout: 60 }))
       await app.close()`,
    )
    const program = join('node_modules', 'celeriac', 'dist', 'lib', 'cli', 'main.js')
    await using worker = bareNode([program, '-A', './tasks.mjs', 'worker', '-l', 'info'], folder)
    await worker.says(/ ready\./)
    const { stdout, stderr } = await bareNode(['producer.mjs'], folder).finished
    expect(stdout, stderr + worker.output).toBe('23\n')
    await worker.says(/Task sample\.add\[.* succeeded/)
  })

  test('says its version', async () => {
    const { stdout, stderr } = await npx(['celeriac', '--version'], folder).finished
    expect(stdout.trim(), stderr).toBe(main.version)
  })

  const SAMPLE = `
    const app = new Celery('sample', { broker: 'memory://', taskAcksLate: true })
    const add = app.task({ name: 'sample.add' }, (x: number, y: number) => x + y)
    export const produce = async (): Promise<number> => {
      // @ts-expect-error: it takes numbers.
      await add.delay('2', 3)
      const sum = await add.delay(2, 3)
      // @ts-expect-error: the sum is a number.
      const text: string = await sum.get()
      return text.length + (await sum.get({ timeout: 10 }))
    }`

  test.each([
    ['nodenext', 'sample.mts', "import { Celery } from 'celeriac'"],
    ['nodenext', 'sample.cts', "import celeriac = require('celeriac')\n const { Celery } = celeriac"],
    ['bundler', 'sample.ts', "import { Celery } from 'celeriac'"],
  ])('has types under strict: %s, %s', async (moduleResolution, name, head) => {
    const sample = join(folder, `types-${name.split('.')[1]}`)
    mkdirSync(sample)
    writeFileSync(join(sample, name), head + SAMPLE)
    const compilerOptions = {
      module: moduleResolution === 'nodenext' ? 'nodenext' : 'esnext',
      moduleResolution,
      target: 'es2023',
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      noEmit: true,
      typeRoots: [join(root, 'node_modules', '@types')],
      types: ['node'],
    }
    writeFileSync(join(sample, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: [name] }))
    const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc')
    const said = await exec(process.execPath, [compiler, '-p', sample]).then(
      ({ stdout }) => stdout,
      (error: { stdout: string }) => error.stdout,
    )
    expect(said).toBe('')
  })
})

describe('without a binary that loads', () => {
  const USE = `import { Celery } from 'celeriac'
    const app = new Celery('sample', { broker: 'memory://' })
    const add = app.task({ name: 'sample.add' }, (x, y) => x + y)
    console.log(typeof add.delay)
    try {
      await add.delay(2, 3)
    } catch (error) {
      console.log(JSON.stringify({ code: error.code, message: error.message, cause: String(error.cause) }))
    }`
  const system = new RegExp(
    platform.startsWith('linux') ? `${platform.replace(/-\w+$/, '')} with (glibc \\d|musl)` : platform,
  )

  interface Said {
    code: string
    message: string
    cause: string
  }

  async function use(folder: string, env: Record<string, string> = {}): Promise<Said> {
    writeFileSync(join(folder, 'use.mjs'), USE)
    const { stdout, stderr } = await bareNode(['use.mjs'], folder, env).finished
    const [kind, said = ''] = stdout.trim().split('\n')
    // Apps can be written and imported all the same.
    expect(kind, stderr).toBe('function')
    expect(said, stderr).toMatch(/^\{/)
    return JSON.parse(said) as Said
  }

  test('the first call names the platform, what was tried, and how to install it', async () => {
    const folder = await installed([main.file, '--omit=optional', ...platformOptions(platform)])
    const { code, message, cause } = await use(folder)
    expect(code).toBe('ERR_CELERIAC_NATIVE_MISSING')
    expect(message).toMatch(system)
    expect(message).toContain(`Cannot find module './${binaryName(platform)}'`)
    expect(message).toContain(`Cannot find module '@celeriac/binding-${platform}'`)
    expect(message).toContain('npm install --include=optional')
    expect(message).not.toContain('wasi')
    expect(cause).toContain('Cannot find native binding')

    const worker = await npx(['celeriac', '-A', './use.mjs', 'worker'], folder).finished
    expect(worker.code).not.toBe(0)
    const output = worker.stdout + worker.stderr
    expect(output).toContain('npm install --include=optional')
    expect(output).not.toMatch(/^\s+at /m)

    // What it says to do helps.
    rmSync(join(folder, 'node_modules'), { recursive: true })
    rmSync(join(folder, 'package-lock.json'))
    await npm(['install', '--include=optional', ...platformOptions(platform)], folder)
    expect((await bareNode(['use.mjs'], folder).finished).stdout).toBe('function\n')
  })

  test('a binary that was built elsewhere can be named, and a wrong one is reported', async () => {
    const folder = await installed([main.file, '--omit=optional', ...platformOptions(platform)])
    writeFileSync(join(folder, 'use.mjs'), USE)
    const env = { NAPI_RS_NATIVE_LIBRARY_PATH: releaseBinary() }
    expect((await bareNode(['use.mjs'], folder, env).finished).stdout).toBe('function\n')
    const wrong = join(folder, 'wrong.node')
    writeFileSync(wrong, 'no library')
    const { message } = await use(folder, { NAPI_RS_NATIVE_LIBRARY_PATH: wrong })
    expect(message).toContain(wrong)
    expect(message).toContain('unset NAPI_RS_NATIVE_LIBRARY_PATH')
  })

  test('a package whose binary does not load is told from one that is not there', async () => {
    const folder = await installed([main.file, ...platformOptions(platform)])
    const broken = join(folder, 'broken.node')
    writeFileSync(broken, 'no library')
    replaceBinary(folder, platform, broken)
    const { code, message } = await use(folder)
    expect(code).toBe('ERR_CELERIAC_NATIVE_MISSING')
    expect(message).toContain(`@celeriac/binding-${platform} is there and does not load`)
    expect(message).toContain(binaryName(platform))
  })

  test("another platform's node_modules are told by their binary", async () => {
    const other = platforms.find((name) => name !== platform) as string
    const { message } = await use(await installed([main.file, ...platformOptions(other)]))
    expect(message).toContain(`node_modules has it for ${other}`)
  })
})

// Other systems have neither glibc nor readelf.
describe.each(platform.endsWith('-gnu') ? ['the binary'] : [])('%s', () => {
  const read = async (...args: string[]): Promise<string> =>
    (await exec('readelf', ['--wide', ...args, releaseBinary()], { maxBuffer: 1 << 26 })).stdout

  test('needs no glibc after 2.28, the oldest that Node 20 runs on', async () => {
    const versions = [...(await read('--version-info')).matchAll(/Name: GLIBC_(\d+)\.(\d+)/g)].map(
      ([, major, minor]) => Number(major) * 1000 + Number(minor),
    )
    expect(versions).not.toHaveLength(0)
    expect(Math.max(...versions)).toBeLessThanOrEqual(2028)
  })

  test('needs no libraries but those of glibc', async () => {
    const needed = [...(await read('--dynamic')).matchAll(/\(NEEDED\).*\[(.+?)\]/g)].map(([, name]) => name)
    expect(needed).toContain('libc.so.6')
    const others = needed.filter(
      (name) => !/^(lib(c|m|dl|rt|pthread|util)|ld-linux-[\w-]+)\.so\.\d$/.test(`${name}`),
    )
    expect(others).toEqual([])
  })
})

test('npm/ has what package.json names, all of one version', () => {
  const { version, napi } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    version: string
    napi: { targets: string[] }
  }
  expect(platforms).toHaveLength(napi.targets.length)
  expect(new Set(Object.values(optionalDependencies()))).toEqual(new Set([version]))
  const cargo = readFileSync(join(root, 'Cargo.toml'), 'utf8')
  expect(/\[workspace\.package\]\nversion = "(.+)"/.exec(cargo)?.[1]).toBe(version)
  expect(readFileSync(join(root, 'native.cjs'), 'utf8')).toContain(`expected ${version} but got`)
})

test('the release workflow builds every platform', () => {
  const workflow = readFileSync(join(root, '.github', 'workflows', 'release.yml'), 'utf8')
  const built = [...workflow.matchAll(/^ +- platform: (\S+)$/gm)].map((match) => match[1])
  expect(built.toSorted()).toEqual(platforms)
  // And publishes as many, with celeriac itself.
  expect(/wc -l\)" = (\d+)$/m.exec(workflow)?.[1]).toBe(String(platforms.length + 1))
})
