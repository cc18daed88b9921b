/** The programs of a measurement, each a process of its own. */

import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { celeriac, node, python, Running } from '../../__test__/support/processes.ts'
import { temporaryFolder } from '../../__test__/support/servers.ts'
import { within } from '../../__test__/support/wait.ts'

const PROGRAMS = join(import.meta.dirname, '..', 'programs')
const JITI = join(import.meta.dirname, '..', '..', 'node_modules', 'jiti', 'lib', 'jiti-cli.mjs')

/** Ours, and the pools of Python's. */
export const WORKERS = ['celeriac', 'prefork', 'threads', 'solo'] as const
export type WorkerKind = (typeof WORKERS)[number]

/** Seconds that any one program has. */
export const PATIENCE = 180

/** Where a program finds broker and results, and where its worker says what it ran. */
export function environmentFor(broker: string, backend: string): { RAN: string } & Record<string, string> {
  return { CELERY_BROKER_URL: broker, CELERY_RESULT_BACKEND: backend, RAN: temporaryFolder() }
}

export function startPython(args: string[], env: Record<string, string>): Running {
  const complete = { ...process.env, ...env, PYTHONDONTWRITEBYTECODE: '1' }
  return new Running(
    spawn(python(), args, { cwd: PROGRAMS, env: complete, stdio: ['ignore', 'pipe', 'pipe'] }),
  )
}

export function startOurs(program: string, args: number[], env: Record<string, string>): Running {
  return node(JITI, [join(PROGRAMS, program), ...args.map(String)], { env })
}

export function startWorker(kind: WorkerKind, env: Record<string, string>): Running {
  if (kind === 'celeriac')
    return celeriac(['-A', join(PROGRAMS, 'tasks.ts'), 'worker', '-c', '100', '-l', 'warning'], { env })
  const concurrency = kind === 'solo' ? [] : ['-c', String(availableParallelism())]
  const quiet = ['--without-gossip', '--without-mingle', '--without-heartbeat']
  return startPython(
    ['-m', 'celery', '-A', 'tasks', 'worker', '-P', kind, ...concurrency, '-l', 'WARNING', ...quiet],
    env,
  )
}

/** The seconds that a program says it took. */
export async function secondsOf(program: Running): Promise<number> {
  const { code, stdout, stderr } = await within(PATIENCE, 'the end of a program', program.finished)
  if (code !== 0) throw new Error(`a program ended with ${code}:\n${stderr}`)
  return (JSON.parse(stdout) as { seconds: number }).seconds
}

/** Stops a worker warmly, so that it says what it ran. */
export async function stopWorker(worker: Running): Promise<void> {
  const { code, output } = { ...(await worker.end('SIGTERM', PATIENCE)), output: worker.output }
  if (code !== 0) throw new Error(`a worker ended with ${code}:\n${output}`)
}
