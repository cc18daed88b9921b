// `npm run demo`: from a clean clone, a worker process and a producer process that hash the text files of this
// repository and count their words, as tasks. See examples/word-count.
//
//   npm run demo                                                      on a SQLite file, with no server
//   npm run demo -- --broker redis://… --backend redis://…            there instead
//   npm run demo -- --concurrency 10                                  so many tasks at once (default 100)
//   npm run demo -- --built                                           as it was built before

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
  const { values } = parseArgs({
    options: { broker: text, backend: text, concurrency: text, built: { type: 'boolean' } },
  })
  const concurrency = Number(values.concurrency ?? 100)
  if (!Number.isInteger(concurrency) || concurrency < 1)
    throw new Problem(`--concurrency takes a number of tasks, not ${values.concurrency}`)
  if (values.backend !== undefined && values.broker === undefined)
    throw new Problem('--backend goes with --broker')
  // A server that has the messages can have the results too.
  const { broker, backend = broker, built = false } = values
  return { broker, backend, concurrency, built }
}

/** Every process that this one started and that has not ended. */
const running = new Set()
const folder = mkdtempSync(join(tmpdir(), 'celeriac-demo-'))
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true })
})

/** Starts a program of ours; `ended` gives its exit code. */
function start(args, env, stdio) {
  // In a group of its own, so that Ctrl+C comes here only, and the processes end in their order.
  const child = spawn(process.execPath, args, {
    cwd: root,
    // Nothing is kept but what the demo removes at its end.
    env: { ...process.env, ...env, JITI_FS_CACHE: 'false' },
    stdio,
    detached: true,
  })
  running.add(child)
  const ended = once(child, 'exit').then(([code]) => {
    running.delete(child)
    return code
  })
  return { child, ended }
}

/** Asks a program to end, ends it by force when it does not, and gives its exit code. */
async function end({ child, ended }) {
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), GRACE * 1000)
  const code = await ended
  clearTimeout(timer)
  return code
}

/** Resolves with the exit code for the first signal to end; the second one ends this process at once. */
function interruption() {
  return new Promise((resolve) => {
    for (const [signal, number] of [
      ['SIGHUP', 1],
      ['SIGINT', 2],
      ['SIGTERM', 15],
    ]) {
      process.removeAllListeners(signal)
      process.once(signal, () => {
        resolve(128 + number)
        process.on(signal, () => process.exit(128 + number))
      })
    }
  })
}

/** Runs worker and producer; gives the exit code. */
async function demo({ broker, backend, concurrency }) {
  const interrupted = interruption()
  const file = join(folder, 'celeriac.db')
  const env = {
    CELERY_BROKER_URL: broker ?? `sqla+sqlite:///${file}`,
    CELERY_RESULT_BACKEND: backend ?? `db+sqlite:///${file}`,
  }
  console.log(
    [
      '',
      '  Every text file of this repository, hashed and counted by tasks',
      '',
      `  broker    ${broker === undefined ? 'a SQLite file, no server' : withoutPassword(broker)}`,
      `  results   ${broker === undefined ? 'the same file' : withoutPassword(backend)}`,
      `  worker    one process, ${concurrency} tasks at once`,
      '',
    ].join('\n'),
  )
  const log = join(folder, 'worker.log')
  const output = openSync(log, 'a')
  const options = ['--concurrency', String(concurrency), '--loglevel', 'warning']
  const worker = start([CLI, '-A', APP, '--quiet', 'worker', ...options], env, ['ignore', output, output])
  const producer = start([JITI, 'examples/word-count/main.ts', String(concurrency)], env, [
    'ignore',
    'inherit',
    'inherit',
  ])
  const crashed = worker.ended.then(() => 'crashed')
  const outcome = await Promise.race([producer.ended, crashed, interrupted])
  await end(producer)
  const workerCode = await end(worker)
  if (outcome === 'crashed' || (outcome === 0 && workerCode !== 0)) {
    console.error(`The worker ended with ${workerCode}: ${readFileSync(log, 'utf8').trim()}`)
    return 1
  }
  if (outcome !== 0 && broker !== undefined)
    await start([CLI, '-A', APP, 'purge', '--force'], env, 'ignore').ended
  return outcome ?? 1
}

function withoutPassword(url) {
  return url.replace(/:[^:@/]*@/, ':**@')
}

try {
  const options = readOptions()
  if (!options.built) {
    await installPackages()
    await build()
  }
  process.exitCode = await demo(options)
} catch (error) {
  const isPlain = error instanceof Problem || error.code?.startsWith('ERR_PARSE_ARGS')
  console.error(isPlain ? error.message : error)
  process.exitCode = 1
}
