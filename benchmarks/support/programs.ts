/** The programs of a measurement, each a process of its own. */

import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { celeriac, node, python, Running } from '../../__test__/support/processes.ts'
import { leashed, temporaryFolder } from '../../__test__/support/servers.ts'
import { within } from '../../__test__/support/wait.ts'

const benchmarks = join(import.meta.dirname, '..')
const PROGRAMS = join(benchmarks, 'programs')
/** Ours are measured compiled, as an app is in production. */
const COMPILED = join(benchmarks, 'dist')

/** Ours, the pools of Python's, and BullMQ's. */
export type WorkerKind = 'celeriac' | PythonPool | 'bullmq'
export type PythonPool = (typeof PYTHON_POOLS)[number]
export const PYTHON_POOLS = ['prefork', 'threads', 'solo'] as const

/** How many tasks at once the workers of Node run. */
export const CONCURRENCY = 100
/** Seconds that any one program has. */
export const PATIENCE = 180

/** Variables of a program. */
export type Environment = { RAN: string } & Record<string, string>

/** Numbers for the command line of a program. */
export type Options = Record<string, number>

/** Where a program finds broker and results, and where its worker says what it ran. */
export function environmentFor(broker: string, backend: string | null): Environment {
  const results = backend === null ? {} : { CELERY_RESULT_BACKEND: backend }
  return { CELERY_BROKER_URL: broker, REDIS_URL: broker, ...results, RAN: temporaryFolder() }
}

/** A folder that `npm run bench` provides. */
export function provided(name: string): string {
  const path = process.env[name]
  if (path === undefined) throw new Error(`${name} is not set; run this with \`npm run bench\``)
  return path
}

function start(command: string, args: string[], env: Record<string, string>, cwd: string): Running {
  const complete = { ...process.env, ...env, PYTHONDONTWRITEBYTECODE: '1' }
  return new Running(
    spawn(...leashed(command, args), { cwd, env: complete, stdio: ['ignore', 'pipe', 'pipe'] }),
  )
}

function flags(options: Options): string[] {
  return Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
}

/** A program of `programs/` in TypeScript, by its name without ending. */
export function startOurs(program: string, options: Options, env: Environment): Running {
  return node(join(COMPILED, `${program}.js`), flags(options), { env })
}

/** A program of `programs/` in Python, by its name without ending. */
export function startPython(program: string, options: Options, env: Environment): Running {
  return start(python(), [`${program}.py`, ...flags(options)], env, PROGRAMS)
}

/** A program of `peers/`, by its name without ending. */
export function startPeer(program: string, options: Options, env: Environment): Running {
  const folder = provided('CELERIAC_BENCH_PEERS')
  return start(process.execPath, [`${program}.mjs`, ...flags(options)], env, folder)
}

/** A bare program in Rust: an example of celeriac-broker. */
export function startBare(program: string, args: readonly (string | number)[]): Running {
  return start(join(provided('CELERIAC_BENCH_BARE'), program), args.map(String), {}, benchmarks)
}

export function startCommand(command: string, args: readonly (string | number)[]): Running {
  return start(command, args.map(String), {}, benchmarks)
}

export function startWorker(kind: WorkerKind, env: Environment): Running {
  if (kind === 'bullmq') return startPeer('bullmq-work', { concurrency: CONCURRENCY }, env)
  if (kind === 'celeriac') {
    const app = join(COMPILED, 'tasks.js')
    return celeriac(['-A', app, 'worker', '-c', String(CONCURRENCY), '-l', 'warning'], { env })
  }
  const concurrency = kind === 'solo' ? [] : ['-c', String(availableParallelism())]
  const quiet = ['--without-gossip', '--without-mingle', '--without-heartbeat']
  const worker = [
    '-m',
    'celery',
    '-A',
    'tasks',
    'worker',
    '-P',
    kind,
    ...concurrency,
    '-l',
    'WARNING',
    ...quiet,
  ]
  return start(python(), worker, env, PROGRAMS)
}

/** What a program says at its end, as JSON: how many seconds it took at least. */
export async function resultOf<Result extends { seconds: number }>(program: Running): Promise<Result> {
  const { code, stdout, stderr } = await within(PATIENCE, 'the end of a program', program.finished)
  if (code !== 0) throw new Error(`a program ended with ${code}:\n${stdout}${stderr}`)
  return JSON.parse(stdout) as Result
}

/** Stops a worker warmly, so that it says what it ran. */
export async function stopWorker(worker: Running): Promise<void> {
  const { code, output } = { ...(await worker.end('SIGTERM', PATIENCE)), output: worker.output }
  if (code !== 0) throw new Error(`a worker ended with ${code}:\n${output}`)
}

/** Asks every few milliseconds, until the answer is true; fails when `worker` ends before. */
export async function soon(
  what: string,
  worker: Running,
  ask: () => boolean | Promise<boolean>,
): Promise<void> {
  const end = performance.now() + PATIENCE * 1000
  while (!(await ask())) {
    if (!worker.isRunning) throw new Error(`a worker ended before ${what}:\n${worker.output}`)
    if (performance.now() > end) {
      throw new Error(`${what} did not come within ${PATIENCE} s:\n${worker.output}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 4))
  }
}
