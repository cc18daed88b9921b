/** What users install: the tarballs, a registry that has them, and a machine with Node and npm and nothing else. */

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, realpathSync, symlinkSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { basename, delimiter, dirname, join, relative, sep } from 'node:path'
import { promisify } from 'node:util'
import { binaryName, placeBinary, platformHere, platforms } from '../../scripts/support/platforms.mjs'
import { Running } from './processes.ts'
import { leashed, temporaryFolder } from './servers.ts'

const root = join(import.meta.dirname, '..', '..')

/** The platform whose package is tested: this machine's, or CELERIAC_PACKAGE_PLATFORM. */
export const platform = process.env['CELERIAC_PACKAGE_PLATFORM'] ?? platformHere()

/** The binary as it is released; `npm test` builds it. */
export function releaseBinary(): string {
  const path = process.env['CELERIAC_RELEASE_BINARY']
  if (path === undefined) {
    throw new Error('CELERIAC_RELEASE_BINARY names no binary; run `npm test -- --only package`')
  }
  return path
}

/** A package as `npm pack` makes it. */
export interface Packed {
  name: string
  version: string
  /** The tarball. */
  file: string
  /** Bytes of the tarball, and of what is in it. */
  size: number
  unpackedSize: number
  files: string[]
  /** Its package.json. */
  manifest: Manifest
}

/** What is read of a package.json. */
export interface Manifest {
  name: string
  version: string
  scripts?: Record<string, string>
  dependencies?: Record<string, string>
  optionalDependencies?: Record<string, string>
}

/**
 * A copy of the clone as it is, sources, tests and builds included, with the binary in its place. Packing writes to package.json for
 * a moment, which nobody else should see.
 */
export function copyOfClone(): string {
  const copy = join(temporaryFolder(), 'celeriac')
  const left = new Set(['node_modules', '.git', 'target', 'test-results', 'packages', 'benchmarks'])
  cpSync(root, copy, {
    recursive: true,
    filter: (path) => !left.has(relative(root, path)) && !path.endsWith('.node'),
  })
  placeBinary(platform, releaseBinary(), copy)
  return copy
}

/** Packs folders; their scripts run only where `scripts` is true. */
export async function pack(folders: string[], destination: string, scripts = true): Promise<Packed[]> {
  const options = ['--json', '--pack-destination', destination, ...(scripts ? [] : ['--ignore-scripts'])]
  // That is a developer's machine.
  const said = await npm(['pack', ...options, ...folders], destination, { PATH: process.env['PATH'] ?? '' })
  // Scripts may print before it. npm 12 gives an object by names, older ones a list.
  const packed = Object.values(JSON.parse(said.slice(said.search(/^[[{]/m)))) as Array<
    Omit<Packed, 'files' | 'file' | 'manifest'> & { filename: string; files: Array<{ path: string }> }
  >
  return Promise.all(
    packed.map(async (one) => {
      // The name of a scoped package has a slash where older versions of npm print it, which the file has not.
      const file = join(destination, one.filename.replace('@', '').replace('/', '-'))
      const manifest = JSON.parse(await readFromTarball(file, 'package.json')) as Manifest
      return { ...one, file, files: one.files.map(({ path }) => path), manifest }
    }),
  )
}

/** Packs what the clone has of other people's: `names`, and what those depend on. */
export async function packDependencies(names: string[], destination: string): Promise<Packed[]> {
  const folders = new Set<string>()
  const add = (name: string): void => {
    const folder = join(root, 'node_modules', name)
    if (folders.has(folder)) return
    folders.add(folder)
    const { dependencies = {} } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest
    for (const other of Object.keys(dependencies)) add(other)
  }
  for (const name of names) add(name)
  return pack([...folders], destination, false)
}

async function readFromTarball(file: string, path: string): Promise<string> {
  const { stdout } = await promisify(execFile)('tar', ['-xzOf', file, `package/${path}`])
  return stdout
}

/** A registry on this machine that has `packages` and no other. */
export class Registry {
  readonly #server

  constructor(packages: Packed[]) {
    this.#server = createServer((request, response) => {
      const path = decodeURIComponent(request.url ?? '').slice(1)
      const found = packages.find(({ name, file }) => path === name || path === basename(file))
      if (found === undefined) {
        response.writeHead(404).end('{}')
      } else if (path === found.name) {
        response.setHeader('content-type', 'application/json').end(JSON.stringify(this.#document(found)))
      } else {
        response.end(readFileSync(found.file))
      }
    })
  }

  #document({ name, version, file, manifest }: Packed): object {
    const bytes = readFileSync(file)
    const dist = {
      tarball: `${this.url}/${basename(file)}`,
      integrity: `sha512-${createHash('sha512').update(bytes).digest('base64')}`,
    }
    return { name, 'dist-tags': { latest: version }, versions: { [version]: { ...manifest, dist } } }
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async start(): Promise<this> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    return this
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    this.#server.close()
    await once(this.#server, 'close')
  }
}

/** npm's programs, wherever this Node has them. */
function npmProgram(name: 'npm' | 'npx'): string {
  const folders = [
    ...(process.env['npm_execpath']?.endsWith('npm-cli.js') === true
      ? [dirname(process.env['npm_execpath'])]
      : []),
    ...(process.env['PATH'] ?? '').split(delimiter).map((folder) => {
      const command = join(folder, 'npm')
      return existsSync(command) ? dirname(realpathSync(command)) : folder
    }),
    join(dirname(process.execPath), 'node_modules', 'npm', 'bin'),
  ]
  const program = folders.map((folder) => join(folder, `${name}-cli.js`)).find((path) => existsSync(path))
  if (program === undefined) throw new Error(`${name} is not on PATH`)
  return program
}

let commands: string | undefined
/** An older test's packages have the same names and versions. */
const npmCache = temporaryFolder()

/** A folder with Node, npm and a shell: all that PATH has on the machine that packages are installed on. */
export function bareCommands(): string {
  if (process.platform === 'win32') return dirname(process.execPath)
  if (commands !== undefined) return commands
  const folder = join(temporaryFolder(), 'bin')
  mkdirSync(folder, { recursive: true })
  // Another machine's Node comes with the program that runs it.
  symlinkSync(process.env['CELERIAC_PACKAGE_NODE'] ?? process.execPath, join(folder, 'node'))
  symlinkSync(npmProgram('npm'), join(folder, 'npm'))
  symlinkSync(npmProgram('npx'), join(folder, 'npx'))
  // npm runs what npx names through it.
  symlinkSync('/bin/sh', join(folder, 'sh'))
  return (commands = folder)
}

/** The environment of that machine; nobody's settings of npm count there. */
export function bareEnvironment(extra: Record<string, string> = {}): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    ([name, value]) => value !== undefined && !/^(NAPI_|CELER|NODE_|NPM_|VITEST)|_PROXY$/i.test(name),
  ) as Array<[string, string]>
  return {
    ...Object.fromEntries(kept),
    npm_config_audit: 'false',
    npm_config_cache: npmCache,
    npm_config_fund: 'false',
    npm_config_globalconfig: join(npmCache, 'no-global-npmrc'),
    npm_config_userconfig: join(npmCache, 'no-npmrc'),
    npm_config_update_notifier: 'false',
    NO_COLOR: '1',
    PATH: bareCommands(),
    ...extra,
  }
}

/** npm with these arguments, to its end; what it printed. It runs on this machine's Node. */
export async function npm(args: string[], cwd: string, env: Record<string, string> = {}): Promise<string> {
  const program = [npmProgram('npm'), ...args]
  const { stdout, stderr, code } = await start(process.execPath, program, cwd, env).finished
  if (code !== 0) throw new Error(`npm ${args.join(' ')} ended with ${code}:\n${stdout}${stderr}`)
  return stdout
}

/** `npx` with these arguments. */
export const npx = (args: string[], cwd: string): Running =>
  start(process.execPath, [npmProgram('npx'), '--no-install', ...args], cwd)

/** The machine's Node with these arguments. */
export const bareNode = (args: string[], cwd: string, env: Record<string, string> = {}): Running =>
  start(process.env['CELERIAC_PACKAGE_NODE'] ?? process.execPath, args, cwd, env)

function start(command: string, args: string[], cwd: string, env: Record<string, string> = {}): Running {
  const child: ChildProcess = spawn(...leashed(command, args), {
    cwd,
    env: bareEnvironment(env),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  return new Running(child)
}

/** What npm is told of a platform that is not its own. */
export function platformOptions(name: string): string[] {
  if (name === platformHere()) return []
  const [os = '', cpu = '', abi = ''] = name.split('-')
  const libc = { gnu: 'glibc', musl: 'musl' }[abi]
  return ['--os', os, '--cpu', cpu, ...(libc === undefined ? [] : ['--libc', libc])]
}

/** The packages that are installed in a folder, by their paths in node_modules. */
export function installedPackages(folder: string): Map<string, Manifest> {
  const { packages } = JSON.parse(
    readFileSync(join(folder, 'node_modules', '.package-lock.json'), 'utf8'),
  ) as { packages: Record<string, unknown> }
  return new Map(
    Object.keys(packages).map((path) => {
      const name = relative('node_modules', path).split(sep).join('/')
      return [name, JSON.parse(readFileSync(join(folder, path, 'package.json'), 'utf8')) as Manifest]
    }),
  )
}

/** Puts a file where a package has its binary, in a folder that it is installed in. */
export function replaceBinary(folder: string, name: string, file: string): void {
  copyFileSync(file, join(folder, 'node_modules', '@celeriac', `binding-${name}`, binaryName(name)))
}

export { platforms }
