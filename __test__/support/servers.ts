/** Real servers on free ports, each with a folder of its own; all of them end with the test process. */

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createConnection, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { until } from './wait.ts'

const children = new Set<ChildProcess>()
const folders = new Set<string>()
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

/** Remembers a process that must not outlive the tests. */
export function own<Child extends ChildProcess>(child: Child): Child {
  children.add(child)
  child.once('exit', () => children.delete(child))
  return child
}

/**
 * A command that ends with the process that starts it, also when that one is killed; where the system cannot do that, the
 * command itself.
 */
export function leashed(command: string, args: string[]): [command: string, args: string[]] {
  return existsSync(SETPRIV) ? [SETPRIV, ['--pdeathsig', 'KILL', command, ...args]] : [command, args]
}

const SETPRIV = '/usr/bin/setpriv'

/** A folder that is removed when the process ends, or, where that one is killed, at the end of the run (run-folder.ts). */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'celeriac-test-'))
  folders.add(folder)
  return folder
}

/** A port that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1')
    socket.once('connect', () => socket.write('PING\r\n'))
    socket.once('data', (data) => {
      socket.destroy()
      resolve(!data.toString().startsWith('-LOADING'))
    })
    socket.once('error', () => resolve(false))
  })
}

/** A redis-server of this test alone. */
export interface RedisServer {
  /** With the password, if it has one, and without a database number. */
  readonly url: string
  readonly port: number
  /** Sends commands as `redis-cli` would; the answer as redis-cli prints it. */
  command(...args: string[]): Promise<string>
  /** SIGKILL. */
  kill(): Promise<void>
  /** On the same port, with the same folder: what was persisted is there again. */
  start(): Promise<void>
  stop(): Promise<void>
}

/** Starts redis-server; `appendonly` persists every write before it is answered. */
export async function startRedis(
  options: { password?: string; appendonly?: boolean } = {},
): Promise<RedisServer> {
  const folder = temporaryFolder()
  const port = await freePort()
  const credentials = options.password === undefined ? '' : `:${encodeURIComponent(options.password)}@`
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '']
  if (options.appendonly === true) args.push('--appendonly', 'yes', '--appendfsync', 'always')
  if (options.password !== undefined) args.push('--requirepass', options.password)
  let child: ChildProcess | undefined
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child === undefined) return
    const exit = once(child, 'exit')
    child.kill(signal)
    child = undefined
    await exit
  }
  const server: RedisServer = {
    url: `redis://${credentials}127.0.0.1:${port}`,
    port,
    async command(...command) {
      const login = options.password === undefined ? [] : ['-a', options.password, '--no-auth-warning']
      const client = spawn('redis-cli', ['-p', String(port), ...login, ...command])
      let output = ''
      client.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
      await once(client, 'close')
      return output.trimEnd()
    },
    kill: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
    async start() {
      child = own(
        spawn(...leashed(process.env['CELERIAC_REDIS_SERVER'] ?? 'redis-server', args), { stdio: 'ignore' }),
      )
      await until(20, `redis-server on port ${port}`, () => answers(port))
    },
  }
  await server.start()
  return server
}
