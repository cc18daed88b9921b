// `npm run demo`: from a clean clone, a worker process and a producer process that hash the text files of this
// repository and count their words, as tasks. See examples/word-count.
//
//   npm run demo                                                      on a SQLite file, with no server
//   npm run demo -- --broker redis://… --backend redis://…            there instead
//   npm run demo -- --concurrency 10                                  so many tasks at once (default 100)

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { build, installPackages, Problem, root } from './support/environment.mjs'

const APP = 'examples/word-count/app.ts'
const CLI = 'dist/lib/cli/main.js'
const JITI = 'node_modules/jiti/lib/jiti-cli.mjs'
/** Seconds that a process has to end by itself. */
const GRACE = 15

function readOptions() {
  const text = { type: 'string' }
  const { values } = parseArgs({ options: { broker: text, backend: text, concurrency: text } })
  const concurrency = Number(values.concurrency ?? 100)
  if (!Number.isInteger(concurrency) || concurrency < 1)
    throw new Problem(`--concurrency takes a number of tasks, not ${values.concurrency}`)
  if (values.backend !== undefined && values.broker === undefined)
    throw new Problem('--backend goes with --broker')
  // A server that has the messages can have the results too.
  return { broker: values.broker, backend: values.backend ?? values.broker, concurrency }
}

/** Every process that this one started and that has not ended. */
const running = new Set()

function start(args, env, stdio) {
  // In a group of its own, so that Ctrl+C comes here and the processes end in their order.
  const child = spawn(process.execPath, args, { cwd: root, env: { ...process.env, ...env }, stdio, detached: true })
  running.add(child)
  child.once('exit', () => running.delete(child))
  return child
}

/** Asks a process to end, ends it by force when it does not, and gives its exit code. */
async function end(child) {
  if (!running.has(child)) return child.exitCode
  const exit = once(child, 'exit')
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), GRACE * 1000)
  const [code] = await exit
  clearTimeout(timer)
  return code
}

async function demo({ broker, backend, concurrency }, folder, interruption) {
  const embedded = join(folder, 'celeriac.db')
  const env = {
    CELERY_BROKER_URL: broker ?? `sqla+sqlite:///${embedded}`,
    CELERY_RESULT_BACKEND: backend ?? `db+sqlite:///${embedded}`,
  }
  const log = join(folder, 'worker.log')
  const output = openSync(log, 'a')
  const worker = start(
    [CLI, '-A', APP, 'worker', '--concurrency', String(concurrency), '--loglevel', 'warning'],
    env,
    ['ignore', output, output],
  )
  const producer = start([JITI, 'examples/word-count/main.ts', String(concurrency)], env, 'inherit')
  const workerEnd = once(worker, 'exit')
  const producerEnd = once(producer, 'exit')
}
