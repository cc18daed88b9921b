// What every script of this project needs: where caches are, how a command is run, and that everything is installed.
// Plain Node without dependencies, because it runs before `npm ci`.

import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

/** Caches live outside of the clone, so that a fresh clone is built from them. */
export const cache =
  process.env.CELERIAC_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'celeriac')

export const environment = {
  ...process.env,
  CARGO_TARGET_DIR: process.env.CARGO_TARGET_DIR ?? join(cache, 'target'),
  npm_config_fund: 'false',
  npm_config_audit: 'false',
}

/** Processes that must not outlive this one. */
const children = new Set()
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    for (const child of children) stopGroup(child)
    process.exit(signal === 'SIGINT' ? 130 : 143)
  })
}

function stopGroup(child) {
  try {
    process.kill(-child.pid, 'SIGTERM')
  } catch {
    // It is gone already.
  }
}

/** A problem whose message is all that the user needs. */
export class Problem extends Error {}

/**
 * Runs a command to its end and gives its exit code and output.
 *
 * `show` copies the output to ours as it comes; without it, it is only kept.
 */
export function run(command, args, { show = true, env = {}, cwd = root, timeout } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...environment, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    children.add(child)
    const chunks = []
    const take = (target) => (chunk) => {
      chunks.push(chunk)
      if (show) target.write(chunk)
    }
    child.stdout.on('data', take(process.stdout))
    child.stderr.on('data', take(process.stderr))
    const timer = timeout === undefined ? undefined : setTimeout(() => stopGroup(child), timeout * 1000)
    child.on('error', (error) => reject(new Problem(`${command} could not be started: ${error.message}`)))
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      children.delete(child)
      resolve({ code: code ?? 1, signal, output: Buffer.concat(chunks).toString() })
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

export function which(command) {
  const found = spawnSync('sh', ['-c', `command -v ${command}`], { encoding: 'utf8' })
  return found.status === 0 ? found.stdout.trim() : undefined
}

function digest(...parts) {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest('hex').slice(0, 16)
}

/** Installs the npm packages, unless those of this lock file are there. */
export async function installPackages() {
  const lock = digest(readFileSync(join(root, 'package-lock.json')), process.version)
  const mark = join(root, 'node_modules', '.celeriac-lock')
  if (existsSync(mark) && readFileSync(mark, 'utf8') === lock) return
  console.log('Installing npm packages …')
  await must('Installing the npm packages', 'npm', ['ci', '--no-audit', '--no-fund'], { show: false })
  writeFileSync(mark, lock)
}

/** Everything that the native binary is made of. */
function nativeSources() {
  const listed = spawnSync(
    'git',
    ['ls-files', '-co', '--exclude-standard', 'Cargo.toml', 'Cargo.lock', 'crates'],
    {
      cwd: root,
      encoding: 'utf8',
      maxBuffer: 1 << 26,
    },
  )
  const files = listed.status === 0 ? listed.stdout.split('\n').filter(Boolean) : []
  return files.filter((file) => !file.includes('/tests/') && existsSync(join(root, file)))
}

/** Builds the native binary and the TypeScript, unless what is there was made of these sources. */
export async function build() {
  for (const tool of ['cargo', 'rustc']) {
    if (which(tool) === undefined) throw new Problem(`${tool} is missing. Install Rust: https://rustup.rs`)
  }
  const sources = nativeSources()
  const sum = digest(...sources.map((file) => `${file}\n${readFileSync(join(root, file), 'utf8')}`))
  const mark = join(root, 'node_modules', '.celeriac-native')
  const isCurrent = existsSync(mark) && readFileSync(mark, 'utf8') === sum && hasBinary()
  if (sources.length === 0 || !isCurrent) {
    console.log('Building the native core (some minutes when nothing is cached) …')
    await must('Building the native core', 'npm', ['run', '--silent', 'build:native'], { show: false })
    writeFileSync(mark, sum)
  }
  console.log('Building the TypeScript …')
  rmSync(join(root, 'dist'), { recursive: true, force: true })
  await must('Building the TypeScript', 'npm', ['run', '--silent', 'build:ts'])
}

function hasBinary() {
  const listed = spawnSync('sh', ['-c', 'ls celeriac.*.node'], { cwd: root, encoding: 'utf8' })
  return listed.status === 0 && listed.stdout.trim() !== ''
}

/** A Python with the real Celery, for the interop tests; the path of its interpreter. */
export async function pythonWithCelery() {
  const requirements = ['celery[redis,sqlalchemy]==5.7.0', 'kombu==5.7.0']
  const python = which('python3')
  if (python === undefined)
    throw new Problem('python3 is missing. Install it with: apt-get install -y python3 python3-venv')
  const version = (await must('Asking Python for its version', python, ['-V'], { show: false })).trim()
  const folder = join(cache, `python-${digest(version, ...requirements)}`)
  const interpreter = join(folder, 'bin', 'python')
  if (existsSync(join(folder, '.complete'))) return interpreter
  console.log('Installing Python Celery 5.7.0 …')
  mkdirSync(cache, { recursive: true })
  rmSync(folder, { recursive: true, force: true })
  await must('Making a Python environment', python, ['-m', 'venv', folder], { show: false })
  await must('Installing Celery', interpreter, ['-m', 'pip', 'install', '--quiet', ...requirements], {
    show: false,
  })
  writeFileSync(join(folder, '.complete'), requirements.join('\n'))
  return interpreter
}

/** The path of redis-server; installed by apt where that may be done. */
export async function redisServer() {
  const found = which('redis-server')
  if (found !== undefined) return found
  const command = 'apt-get install -y --no-install-recommends redis-server'
  if (which('apt-get') === undefined || process.getuid?.() !== 0) {
    throw new Problem(`redis-server is missing. Install it with: sudo ${command}`)
  }
  console.log('Installing redis-server …')
  const env = { DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
  await run('apt-get', ['update', '-qq'], { show: false, env })
  await must('Installing redis-server', 'apt-get', command.split(' ').slice(1), { show: false, env })
  const installed = which('redis-server')
  if (installed === undefined) throw new Problem(`redis-server is missing. Install it with: ${command}`)
  return installed
}

/** Writes a file so that a reader never sees half of it. */
export function writeWhole(path, text) {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(`${path}.part`, text)
  renameSync(`${path}.part`, path)
}
