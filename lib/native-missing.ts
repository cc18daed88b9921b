import { createRequire } from 'node:module'

import { CeleriacError } from './errors.ts'

/** The platforms that a binary is published for; `npm/` has a folder for each. */
export const PUBLISHED_PLATFORMS: readonly string[] = [
  'darwin-arm64',
  'darwin-x64',
  'linux-arm64-gnu',
  'linux-arm64-musl',
  'linux-x64-gnu',
  'linux-x64-musl',
  'win32-x64-msvc',
]

/** Where the loader of the core looked, and what it found. */
export interface NativeSearch {
  /** In Node's words: `linux`, `darwin`, `win32`, … */
  os: string
  /** In Node's words: `x64`, `arm64`, … */
  cpu: string
  /** The C library, on Linux only; `version` is unknown for musl. */
  libc: { name: 'glibc' | 'musl'; version?: string | undefined } | undefined
  /** What each try said, in order. */
  attempts: string[]
  /** Of {@link PUBLISHED_PLATFORMS} those whose package is installed, whether it fits or not. */
  installed: string[]
  /** The file that NAPI_RS_NATIVE_LIBRARY_PATH names; nothing else is tried then. */
  override: string | undefined
}

const FROM_SOURCE =
  'build it from source: run `npm run build` in a clone of celeriac (this needs Rust, see CONTRIBUTING.md there), then ' +
  '`npm install <folder of the clone>` here'

/**
 * The error for a process that has no native core, ERR_CELERIAC_NATIVE_MISSING: it says which platform this is, what was
 * tried, and what to do. `cause` is what the loader threw.
 */
export function nativeMissing(cause: unknown): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_NATIVE_MISSING', explain(searched(cause)), { cause })
}

/** {@link nativeMissing}'s message. */
export function explain(search: NativeSearch): string {
  const { os, cpu, libc, attempts } = search
  const system = `${os}-${cpu}${libc === undefined ? '' : ` with ${[libc.name, libc.version].filter(Boolean).join(' ')}`}`
  const lines = [
    `celeriac has no native binary that loads on ${system}.`,
    `Tried: ${attempts.join('; ') || 'nothing'}.`,
    `Remedy: ${remedy(search)}.`,
  ]
  return lines.join('\n')
}

function remedy(search: NativeSearch): string {
  const { installed, attempts, override } = search
  if (override !== undefined) {
    return 'unset NAPI_RS_NATIVE_LIBRARY_PATH, or let it name a binary that was built for this system'
  }
  const platform = platformOf(search)
  if (!PUBLISHED_PLATFORMS.includes(platform)) {
    return `there is no binary for ${platform}, only for ${PUBLISHED_PLATFORMS.join(', ')}; ${FROM_SOURCE}`
  }
  const name = `@celeriac/binding-${platform}`
  if (installed.includes(platform)) {
    if (attempts.some((attempt) => /GLIBC(XX)?_/.test(attempt))) {
      return `the C library is older than ${name} needs (glibc 2.28, as Node 20 does); update the system, or ${FROM_SOURCE}`
    }
    return `${name} is there and does not load. Remove node_modules, run \`npm install\`, or ${FROM_SOURCE}`
  }
  const others = installed.length === 0 ? '' : ` (node_modules has it for ${installed.join(', ')})`
  return (
    `install ${name}${others}. npm leaves it out with --omit=optional or --no-optional, where node_modules came from ` +
    'another platform, and, by a fault of its own (npm/cli#4828), where package-lock.json did: remove node_modules and ' +
    'package-lock.json, then run `npm install --include=optional`'
  )
}

/** The name that binaries have for a system. */
function platformOf({ os, cpu, libc }: NativeSearch): string {
  if (os === 'linux') return `linux-${cpu}-${libc?.name === 'musl' ? 'musl' : 'gnu'}`
  return os === 'win32' ? `win32-${cpu}-msvc` : `${os}-${cpu}`
}

function searched(cause: unknown): NativeSearch {
  return {
    os: process.platform,
    cpu: process.arch,
    libc: process.platform === 'linux' ? libcHere() : undefined,
    attempts: attemptsOf(cause),
    installed: PUBLISHED_PLATFORMS.filter(isInstalled),
    override: process.env['NAPI_RS_NATIVE_LIBRARY_PATH'],
  }
}

function libcHere(): NativeSearch['libc'] {
  const report = process.report as NodeJS.ProcessReport & { excludeNetwork?: boolean }
  // Looking up the names of network addresses may take seconds.
  report.excludeNetwork = true
  const { header } = report.getReport() as { header: { glibcVersionRuntime?: string } }
  const version = header.glibcVersionRuntime
  return version === undefined ? { name: 'musl' } : { name: 'glibc', version }
}

function isInstalled(platform: string): boolean {
  try {
    createRequire(import.meta.url).resolve(`@celeriac/binding-${platform}/package.json`)
    return true
  } catch {
    return false
  }
}

/** The loader chains its tries, the last first, below an error that says nothing more. WebAssembly is never built. */
function attemptsOf(cause: unknown): string[] {
  const attempts: string[] = []
  const seen = new Set<unknown>()
  let error = cause instanceof Error ? (cause.cause ?? cause) : cause
  while (error instanceof Error && !seen.has(error)) {
    seen.add(error)
    const said = error.message.split('\n', 1)[0] ?? ''
    if (!/wasi/.test(said)) attempts.unshift(said)
    error = error.cause
  }
  return attempts
}
