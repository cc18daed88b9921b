// What every script of this project needs: where caches are, how a command is run, and that everything is installed.
// Plain Node without dependencies, because it runs before `npm ci`.

import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

/** Caches live outside of the clone, so that a fresh clone is built from them. */
export const cache =
  process.env.CELERIAC_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'celeriac')

/**
 * One for each clone: cargo tells the crates of a workspace apart by their place in it, and what is new by time, so of two
 * clones with one target directory the older takes what the newer built for its own.
 */
const targets = join(cache, 'targets', createHash('sha256').update(root).digest('hex').slice(0, 12))

export const environment = {
  ...process.env,
  CARGO_TARGET_DIR: process.env.CARGO_TARGET_DIR ?? targets,
  npm_config_fund: 'false',
  npm_config_audit: 'false',
}

/** Processes that must not outlive this one: each leads a group, which ends with it. */
const children = new Set()
process.on('exit', () => {
  for (const child of children) endGroup(child)
})
for (const [signal, number] of [
  ['SIGHUP', 1],
  ['SIGINT', 2],
  ['SIGTERM', 15],
]) {
  process.on(signal, () => process.exit(128 + number))
}

function endGroup(child) {
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {
    // It is gone already.
  }
}

/** A problem whose message is all that the user needs. */
export class Problem extends Error {}

/**
 * Runs a command to its end and gives its exit code and output. What it leaves running is ended too.
 *
 * `show` copies the output to ours as it comes; without it, it is only kept.
 */
export function run(command, args, { show = true, env = {}, cwd = root, timeout } = {}) {
  return new Promise((resolve, reject) => {
    // One pipe for both streams, so that the lines keep their order.
    const child = spawn('sh', ['-c', 'exec "$0" "$@" 2>&1', command, ...args], {
      cwd,
      env: { ...environment, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    })
    children.add(child)
    let output = ''
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text
      if (show) process.stdout.write(text)
    })
    const timer = timeout === undefined ? undefined : setTimeout(() => endGroup(child), timeout * 1000)
    child.on('error', (error) => reject(new Problem(`${command} could not be started: ${error.message}`)))
    child.on('exit', () => endGroup(child))
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      children.delete(child)
      resolve({ code: code ?? 1, signal, output })
    })
  })
}

/** Like {@link run}, and a failure is a {@link Problem}. */
export async function must(what, command, args, options) {
  const { code, output } = await run(command, args, options)
  if (code !== 0) {
    const tail = options?.show === false ? `\n${output.slice(-4000)}` : ''
    throw new Problem(`${what} failed: \`${command} ${args.join(' ')}\` ended with ${code}.${tail}`)
  }
  return output
}

/**
 * Runs `work` while no other process, in whatever clone, holds the lock `name`. The lock is the kernel's, so it ends
 * with its holder.
 */
export async function withLock(name, work) {
  if (which('flock') === undefined) return work()
  mkdirSync(cache, { recursive: true })
  // It waits for the end of its input, which comes when we close it, or die.
  const command = [join(cache, `${name}.lock`), 'sh', '-c', 'echo held; cat']
  const holder = spawn('flock', command, { stdio: ['pipe', 'pipe', 'inherit'] })
  const released = new Promise((resolve) => holder.once('close', resolve))
  const waiting = setTimeout(
    () => console.log(`Waiting for another process that holds ${command[0]} …`),
    1000,
  )
  try {
    await Promise.race([new Promise((resolve) => holder.stdout.once('data', resolve)), released])
    clearTimeout(waiting)
    return await work()
  } finally {
    clearTimeout(waiting)
    holder.stdin.end()
    await released
  }
}

/** The path of a command; undefined where there is none. */
export function which(command) {
  const found = spawnSync('sh', ['-c', `command -v ${command}`], { encoding: 'utf8' })
  return found.status === 0 ? found.stdout.trim() : undefined
}

function digest(...parts) {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest('hex').slice(0, 16)
}

/** Installs the npm packages, unless those of package-lock.json are there. */
export async function installPackages() {
  if (hasPackages()) return
  // Somebody shares packages between folders, and knows why.
  if (lstatSync(join(root, 'node_modules'), { throwIfNoEntry: false })?.isSymbolicLink()) return
  console.log('Installing npm packages …')
  // Not `npm ci`: it refuses a lock file that lacks packages of other platforms, which npm leaves out of it when the
  // registry at hand does not have them. The locked versions are installed all the same.
  const options = ['--no-save', '--no-audit', '--no-fund', '--prefer-offline']
  await must('Installing the npm packages', 'npm', ['install', ...options], { show: false })
}

function hasPackages() {
  const packages = (file) => JSON.parse(readFileSync(join(root, file), 'utf8')).packages
  if (!existsSync(join(root, 'node_modules/.package-lock.json'))) return false
  const installed = packages('node_modules/.package-lock.json')
  return Object.entries(packages('package-lock.json')).every(
    ([path, { version, optional }]) =>
      path === '' ||
      (installed[path] === undefined ? optional === true : installed[path].version === version),
  )
}

/** Fails unless the Rust that Cargo.toml asks for is there. */
export async function checkRust() {
  const wanted = /rust-version = "([\d.]+)"/.exec(readFileSync(join(root, 'Cargo.toml'), 'utf8'))[1]
  const isThere = which('cargo') !== undefined && which('rustc') !== undefined
  const { output } = isThere ? await run('rustc', ['--version'], { show: false }) : { output: '' }
  const found = /^rustc (\d+)\.(\d+)/.exec(output)
  const [major, minor] = wanted.split('.').map(Number)
  if (found !== null && (Number(found[1]) > major || Number(found[2]) >= minor)) return
  throw new Problem(
    `Rust ${wanted} or later is needed to build the native core, found ${output.trim() || 'none'}. ` +
      'Install it from https://rustup.rs, or with: rustup update stable',
  )
}

/** Builds the native core, with the profile `optimized` or `dev`, and the TypeScript. Cargo knows what is up to date. */
export async function build(profile = 'optimized') {
  await checkRust()
  console.log('Building the native core (some minutes when nothing is cached) …')
  // Clones share the folder that cargo writes the library to, and napi copies it from there.
  const command = ['run', '--silent', 'build:native', '--', '--profile', profile]
  await withLock('build', () => must('Building the native core', 'npm', command, { show: false }))
  await buildTypeScript()
}

/** Builds dist/ anew. */
export async function buildTypeScript() {
  console.log('Building the TypeScript …')
  rmSync(join(root, 'dist'), { recursive: true, force: true })
  await must('Building the TypeScript', 'npm', ['run', '--silent', 'build:ts'])
}

/**
 * Builds what the reliability tests use beside the package, quickly rather than fast, and gives the variables by which they
 * find it: the native core with its fault points, and the proxy.
 */
export async function buildTestAids() {
  console.log('Building the native core with fault points, and the programs that tests use …')
  const target = environment.CARGO_TARGET_DIR
  const binary = join(target, 'celeriac-fault-points.node')
  await withLock('build', async () => {
    const binding = ['build', '-p', 'celeriac-node', '--features', 'fault-points']
    await must('Building the native core with fault points', 'cargo', binding, { show: false })
    const programs = ['build', '-p', 'celeriac-testkit', '--bins']
    await must('Building the programs that tests use', 'cargo', programs, { show: false })
    // Under a name of its own, which no other build writes to.
    const [prefix, suffix] = { darwin: ['lib', 'dylib'], win32: ['', 'dll'] }[process.platform] ?? [
      'lib',
      'so',
    ]
    copyFileSync(join(target, 'debug', `${prefix}celeriac_node.${suffix}`), `${binary}.part`)
    renameSync(`${binary}.part`, binary)
  })
  const extension = process.platform === 'win32' ? '.exe' : ''
  return {
    CELERIAC_FAULT_POINT_BINARY: binary,
    CELERIAC_TCP_PROXY: join(target, 'debug', `tcp-proxy${extension}`),
    CELERIAC_RABBITMQ: join(target, 'debug', `rabbitmq${extension}`),
  }
}

/** A Python with the real Celery, for the interop tests; the path of its interpreter. */
export function pythonWithCelery() {
  return pythonEnvironment('python', 'Celery 5.7.0', ['celery[redis,sqlalchemy]==5.7.0', 'kombu==5.7.0'])
}

/** A Python environment of our own in the cache, with these requirements; the path of its interpreter. */
export async function pythonEnvironment(name, what, requirements) {
  const python = which('python3')
  if (python === undefined)
    throw new Problem('python3 is missing. Install it with: apt-get install -y python3 python3-venv')
  const version = (await must('Asking Python for its version', python, ['-V'], { show: false })).trim()
  const folder = join(cache, `${name}-${digest(version, ...requirements)}`)
  const interpreter = join(folder, 'bin', 'python')
  if (existsSync(join(folder, '.complete'))) return interpreter
  await withLock(name, async () => {
    if (existsSync(join(folder, '.complete'))) return
    console.log(`Installing ${what} …`)
    const venv = ['-m', 'venv', '--clear', folder]
    const made = await run(python, venv, { show: false })
    if (made.code !== 0) {
      await aptInstall('python3-venv', 'Python cannot make a virtual environment.')
      await must('Making a Python environment', python, venv, { show: false })
    }
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...requirements]
    await must(`Installing ${what}`, interpreter, pip, { show: false })
    writeFileSync(join(folder, '.complete'), requirements.join('\n'))
  })
  return interpreter
}

/** The path of redis-server; installed by apt where that may be done. */
export async function redisServer() {
  for (const command of ['redis-server', 'redis-cli']) {
    if (which(command) === undefined) await aptInstall('redis-server', `${command} is missing.`)
  }
  return which('redis-server')
}

/** Sees to it that RabbitMQ can be started; installed by apt where that may be done. */
export async function rabbitMqServer() {
  if (which('rabbitmq-server') === undefined) {
    await aptInstall('rabbitmq-server', 'rabbitmq-server is missing.')
  }
}

const SERVICES_POLICY = '/usr/sbin/policy-rc.d'

/** Installs a Debian package without starting its service; where that may not be done, names the command. */
export async function aptInstall(name, problem) {
  if (which('apt-get') === undefined || process.getuid?.() !== 0) {
    throw new Problem(`${problem} Install it with: sudo apt-get install -y ${name}`)
  }
  console.log(`Installing ${name} …`)
  const isOurs = !existsSync(SERVICES_POLICY)
  if (isOurs) writeFileSync(SERVICES_POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    const env = { DEBIAN_FRONTEND: 'noninteractive' }
    const install = ['install', '-y', '--no-install-recommends', name]
    if ((await run('apt-get', install, { show: false, env })).code === 0) return
    await must('Updating the list of packages', 'apt-get', ['update', '-qq'], { show: false, env })
    await must(`Installing ${name}`, 'apt-get', install, { show: false, env })
  } finally {
    if (isOurs) rmSync(SERVICES_POLICY, { force: true })
  }
}

/** Writes a file so that a reader never sees half of it. */
export function writeWhole(path, text) {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(`${path}.part`, text)
  renameSync(`${path}.part`, path)
}
