/** `celeriac dead` on a broker, as an operator runs it. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { TestBroker } from '../brokers.ts'
import { nodeTasks } from '../fleet.ts'
import { cli } from '../processes.ts'
import { leashed, own } from '../servers.ts'

/** What `celeriac dead list --json` prints. */
export interface ListedLetter {
  id: string
  queue: string | null
  reason: string
  detail: string
  task: string | null
  taskId: string | null
  date: string
  size: number
}

/** What a command left. Standard output comes as bytes, for there may be any. */
interface Left {
  code: number | null
  stdout: Buffer
  stderr: string
}

/** Runs `celeriac -A tasks.ts dead …` to its end. */
export function dead(broker: TestBroker, ...args: string[]): Promise<Left> {
  return run(broker, args, false)
}

/** {@link dead} for a reader that closes the pipe when the first bytes have come. */
export function deadWithImpatientReader(broker: TestBroker, ...args: string[]): Promise<Left> {
  return run(broker, args, true)
}

async function run(broker: TestBroker, args: string[], isImpatient: boolean): Promise<Left> {
  const urls = { CELERY_BROKER_URL: broker.url, CELERY_RESULT_BACKEND: broker.backend }
  const [command, all] = leashed(process.execPath, [cli, '-A', nodeTasks, 'dead', ...args])
  const child = own(
    spawn(command, all, { env: { ...process.env, ...urls }, stdio: ['ignore', 'pipe', 'pipe'] }),
  )
  const stdout: Buffer[] = []
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => {
    stdout.push(chunk)
    if (isImpatient) child.stdout.destroy()
  })
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, stdout: Buffer.concat(stdout), stderr }
}

/** {@link dead} that must succeed; its standard output. */
export async function deadOutput(broker: TestBroker, ...args: string[]): Promise<Buffer> {
  const { code, stdout, stderr } = await dead(broker, ...args)
  if (code !== 0) throw new Error(`celeriac dead ${args.join(' ')} ended with ${code}: ${stderr}`)
  return stdout
}

/** The letters that `celeriac dead list` has, oldest first. */
export async function deadList(broker: TestBroker, ...args: string[]): Promise<ListedLetter[]> {
  return JSON.parse((await deadOutput(broker, 'list', '--json', ...args)).toString()) as ListedLetter[]
}
