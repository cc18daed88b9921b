/** Workers and commands in processes of their own: ours through the built CLI, Python's through its own. */

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { leashed, own, temporaryFolder } from './servers.ts'
import { within } from './wait.ts'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

/** The built command-line program. */
export const cli = join(root, 'dist', 'lib', 'cli', 'main.js')

/** A Python with Celery 5.7; `npm test` provides it. */
export function python(): string {
  const path = process.env['CELERIAC_PYTHON']
  if (path === undefined) {
    throw new Error('CELERIAC_PYTHON names no Python with celery==5.7.0; run the tests with `npm test`')
  }
  return path
}

/** What a finished command left. */
export interface Finished {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

/** A process whose output is kept. */
export class Running {
  readonly child: ChildProcess
  stdout = ''
  stderr = ''
  readonly #watchers = new Set<() => void>()
  readonly finished: Promise<Finished>

  constructor(child: ChildProcess) {
    this.child = own(child)
    child.stdout?.on('data', (chunk: Buffer) => {
      this.stdout += chunk.toString()
      for (const watcher of this.#watchers) watcher()
    })
    child.stderr?.on('data', (chunk: Buffer) => {
      this.stderr += chunk.toString()
      for (const watcher of this.#watchers) watcher()
    })
    this.finished = once(child, 'close').then(([code, signal]) => {
      for (const watcher of this.#watchers) watcher()
      return { code, signal, stdout: this.stdout, stderr: this.stderr } as Finished
    })
  }

  /** False once it has ended, by itself or by a signal. */
  get isRunning(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null
  }

  get output(): string {
    return this.stdout + this.stderr
  }

  /** Resolves once the output has `pattern`; rejects when the process ends before, or at the deadline. */
  async says(pattern: string | RegExp, seconds = 60): Promise<void> {
    const has = (): boolean =>
      typeof pattern === 'string' ? this.output.includes(pattern) : pattern.test(this.output)
    if (has()) return
    const seen = new Promise<void>((resolve, reject) => {
      const watcher = (): void => {
        if (has()) resolve()
        else if (!this.isRunning) {
          reject(new Error(`the process ended before it said ${String(pattern)}:\n${this.output}`))
        } else return
        this.#watchers.delete(watcher)
      }
      this.#watchers.add(watcher)
    })
    try {
      await within(seconds, `${String(pattern)} in the output`, seen)
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${this.output.slice(-4000)}`, { cause: error })
    }
  }

  /** Sends a signal and waits for the end. */
  async end(signal: NodeJS.Signals = 'SIGTERM', seconds = 60): Promise<Finished> {
    if (this.isRunning) this.child.kill(signal)
    return within(seconds, `the end of process ${this.child.pid}`, this.finished)
  }

  /** SIGSTOP: it stands still, whatever it was at, until {@link resume} or SIGKILL. */
  pause(): void {
    this.child.kill('SIGSTOP')
  }

  /** SIGCONT: it goes on as if no time had passed. */
  resume(): void {
    this.child.kill('SIGCONT')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end('SIGKILL')
  }
}

interface Options {
  cwd?: string
  env?: Record<string, string>
}

function start(command: string, args: string[], options: Options): Running {
  const env = { ...process.env, PYTHONDONTWRITEBYTECODE: '1', NO_COLOR: '1', ...options.env }
  return new Running(
    spawn(...leashed(command, args), { cwd: options.cwd ?? root, env, stdio: ['ignore', 'pipe', 'pipe'] }),
  )
}

/** `celeriac` with these arguments. */
export function celeriac(args: string[], options: Options = {}): Running {
  return start(process.execPath, [cli, ...args], options)
}

/** A program of ours, run by Node. */
export function node(file: string, args: string[] = [], options: Options = {}): Running {
  return start(process.execPath, [file, ...args], options)
}

/** The Python that has Celery, with these arguments. */
export function startPython(args: string[], options: Options = {}): Running {
  return start(python(), args, options)
}

/** A worker of ours that is ready. */
export async function startWorker(app: string, args: string[] = [], options: Options = {}): Promise<Running> {
  const worker = celeriac(['-A', app, 'worker', '-l', 'info', ...args], options)
  await worker.says(/ ready\./)
  return worker
}

/** A Python Celery app in a folder of its own. */
export interface PythonApp {
  folder: string
  /** A worker that is ready; it runs one task at a time unless `args` name another pool. */
  worker(args?: string[]): Promise<Running>
  /** `celery -A tasks …`, to its end. */
  celery(...args: string[]): Promise<Finished>
  /** A snippet that has `app` and every task in scope; what it printed. */
  run(code: string): Promise<string>
}

/**
 * Writes `tasks.py` with the Celery app `app` on this broker and backend, followed by `source`. Its processes have `env`
 * on top of ours; `settings` have Python's names.
 */
export function pythonApp(
  broker: string,
  backend: string,
  source: string,
  { env = {}, settings = {} }: { env?: Record<string, string>; settings?: Record<string, unknown> } = {},
): PythonApp {
  const folder = temporaryFolder()
  const head = [
    'import json',
    'from celery import Celery',
    `app = Celery('tasks', broker=${JSON.stringify(broker)}, backend=${JSON.stringify(backend)})`,
    'app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=True)',
    `app.conf.update(json.loads(${JSON.stringify(JSON.stringify(settings))}))`,
    '',
  ]
  writeFileSync(join(folder, 'tasks.py'), head.join('\n') + source)
  const options = { cwd: folder, env }
  let workers = 0
  return {
    folder,
    async worker(args = []) {
      const common = ['-m', 'celery', '-A', 'tasks', 'worker', '-l', 'INFO', '-P', 'solo']
      const quiet = ['--without-gossip', '--without-mingle', '--without-heartbeat']
      // RabbitMQ lets only one have a name.
      const name = ['-n', `python${(workers += 1)}@%h`]
      const worker = startPython([...common, ...quiet, ...name, ...args], options)
      await worker.says(/ ready\./)
      return worker
    },
    celery: (...args) => startPython(['-m', 'celery', '-A', 'tasks', ...args], options).finished,
    async run(code) {
      const child = startPython(['-c', `from tasks import *\n${code}`], options)
      const { code: exit, stdout, stderr } = await within(90, 'the end of the snippet', child.finished)
      if (exit !== 0) throw new Error(`the snippet ended with ${exit}:\n${stdout}${stderr}`)
      return stdout.trim()
    },
  }
}
