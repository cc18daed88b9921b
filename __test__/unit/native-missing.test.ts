import { describe, expect, test } from 'vitest'
import { platforms } from '../../scripts/support/platforms.mjs'
import { explain, nativeMissing, type NativeSearch, PUBLISHED_PLATFORMS } from '../../lib/native-missing.ts'

const search = (other: Partial<NativeSearch> = {}): NativeSearch => ({
  os: 'linux',
  cpu: 'x64',
  libc: { name: 'glibc', version: '2.36' },
  attempts: [
    "Cannot find module './celeriac.linux-x64-gnu.node'",
    "Cannot find module '@celeriac/binding-linux-x64-gnu'",
  ],
  installed: [],
  override: undefined,
  ...other,
})

test('the platforms that are named are those of npm/', () => {
  expect(PUBLISHED_PLATFORMS).toEqual(platforms)
})

describe('the error for a missing binary', () => {
  test('names the system, what was tried, and the package to install', () => {
    expect(explain(search())).toMatchInlineSnapshot(`
      "celeriac has no native binary that loads on linux-x64 with glibc 2.36.
      Tried: Cannot find module './celeriac.linux-x64-gnu.node'; Cannot find module '@celeriac/binding-linux-x64-gnu'.
      Remedy: install @celeriac/binding-linux-x64-gnu. npm leaves it out with --omit=optional or --no-optional, where node_modules came from another platform, and, by a fault of its own (npm/cli#4828), where package-lock.json did: remove node_modules and package-lock.json, then run \`npm install --include=optional\`."
    `)
  })

  test.each([
    [{ libc: { name: 'musl' as const } }, 'linux-x64 with musl', 'install @celeriac/binding-linux-x64-musl.'],
    [
      { os: 'darwin', cpu: 'arm64', libc: undefined },
      'darwin-arm64.',
      'install @celeriac/binding-darwin-arm64.',
    ],
    [{ os: 'win32', libc: undefined }, 'win32-x64.', 'install @celeriac/binding-win32-x64-msvc.'],
  ])('knows what %j is called', (other, system, remedy) => {
    const message = explain(search(other))
    expect(message).toContain(`on ${system}`)
    expect(message).toContain(remedy)
  })

  test.each([
    [{ os: 'freebsd', libc: undefined }, 'freebsd-x64'],
    [{ cpu: 's390x' }, 'linux-s390x-gnu'],
    [{ os: 'win32', cpu: 'arm64', libc: undefined }, 'win32-arm64-msvc'],
  ])('says of %j how it is built from source', (other, name) => {
    const message = explain(search(other))
    expect(message).toContain(`there is no binary for ${name}, only for darwin-arm64, `)
    expect(message).toContain('npm run build')
    expect(message).not.toContain('--include=optional')
  })

  test('says that node_modules came from another platform', () => {
    expect(explain(search({ installed: ['darwin-arm64'] }))).toContain('node_modules has it for darwin-arm64')
  })

  test('says that the C library is too old', () => {
    const attempts = ["/lib/libc.so.6: version `GLIBC_2.28' not found"]
    const message = explain(search({ attempts, installed: ['linux-x64-gnu'] }))
    expect(message).toContain('the C library is older than @celeriac/binding-linux-x64-gnu needs')
  })

  test('says that what NAPI_RS_NATIVE_LIBRARY_PATH names does not load', () => {
    const message = explain(search({ override: '/a.node', attempts: ['/a.node: invalid ELF header'] }))
    expect(message).toContain('/a.node: invalid ELF header')
    expect(message).toContain('unset NAPI_RS_NATIVE_LIBRARY_PATH')
  })

  test("has the tries of napi-rs's chain in their order, without WebAssembly", () => {
    const chain = ['first\nRequire stack: …', 'second', "Cannot find module './celeriac.wasi.cjs'"].reduce<
      Error | undefined
    >((cause, message) => new Error(message, { cause }), undefined)
    const cause = new Error('Cannot find native binding.', { cause: chain })
    const error = nativeMissing(cause)
    expect(error.code).toBe('ERR_CELERIAC_NATIVE_MISSING')
    expect(error.cause).toBe(cause)
    expect(error.message).toContain('Tried: first; second.\n')
  })

  test('takes what is no chain as it is', () => {
    expect(nativeMissing(new Error('alone')).message).toContain('Tried: alone.')
    expect(nativeMissing('text').message).toContain('Tried: nothing.')
  })
})
