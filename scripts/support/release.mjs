// Builds the native core as it is released: one binary for each platform of napi.targets in package.json.

import { mkdirSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { Problem, checkRust, environment, must, pythonEnvironment, withLock } from './environment.mjs'
import { binaryName, platformHere, platforms } from './platforms.mjs'

/** What each platform is called by the compiler. */
const TRIPLES = {
  'darwin-arm64': 'aarch64-apple-darwin',
  'darwin-x64': 'x86_64-apple-darwin',
  'linux-arm64-gnu': 'aarch64-unknown-linux-gnu',
  'linux-arm64-musl': 'aarch64-unknown-linux-musl',
  'linux-x64-gnu': 'x86_64-unknown-linux-gnu',
  'linux-x64-musl': 'x86_64-unknown-linux-musl',
  'win32-x64-msvc': 'x86_64-pc-windows-msvc',
}

/**
 * The glibc that binaries are linked for, which Rust itself asks for. Node 20 asks for 2.28, and a test holds the binary to
 * that.
 */
export const GLIBC = '2.17'

const TOOLS = ['ziglang==0.17.1', 'cargo-zigbuild==0.24.0']

/** Where the binary of a platform is put; npm/ holds only what is about to be packed. */
export const binaryPath = (platform) =>
  join(environment.CARGO_TARGET_DIR, 'packages', platform, binaryName(platform))

/** The compiler's name of a platform, for zig with the oldest glibc. */
export function zigTarget(platform) {
  return platform.endsWith('-gnu') ? `${TRIPLES[platform]}.${GLIBC}` : TRIPLES[platform]
}

/** The Python environment with zig and cargo-zigbuild, which are beside its interpreter. */
export function zigPython() {
  return pythonEnvironment('zigbuild', 'zig, the linker for releases', TOOLS)
}

/** Builds the binary of a platform with the profile `release`; gives its path. */
export async function buildRelease(platform = platformHere()) {
  if (!platforms.includes(platform)) {
    throw new Problem(`no binary is released for ${platform}, only for ${platforms.join(', ')}`)
  }
  await checkRust()
  const env = {}
  const command = ['napi', 'build', '--platform', '--release', '--no-js']
  command.push('--manifest-path', 'crates/celeriac-node/Cargo.toml')
  // Cross-compiling is how napi calls zig, which brings the C library that it links against.
  if (platform.startsWith('linux-')) {
    env.PATH = `${dirname(await zigPython())}${delimiter}${environment.PATH}`
    command.push('--cross-compile', '--target', zigTarget(platform))
  } else {
    command.push('--target', TRIPLES[platform])
  }
  const output = dirname(binaryPath(platform))
  mkdirSync(output, { recursive: true })
  console.log(`Building the release binary for ${platform} (some minutes when nothing is cached) …`)
  await withLock('build', () =>
    must('Building the release binary', 'npx', [...command, '--output-dir', output], { show: false, env }),
  )
  return binaryPath(platform)
}
