import { type Command, Option } from 'commander'

import type { Celery } from '../../app.ts'
import { settingsFromCommandLine } from '../../config/command-line.ts'
import { resolveBroker } from '../../config/resolve.ts'
import { CeleriacError } from '../../errors.ts'
import { type LevelName, parseLevel } from '../../log/level.ts'
import { flushLog, getLogger } from '../../log/logger.ts'
import { expandNodeName, nodeName } from '../../log/node-name.ts'
import { logNativeRecords, setUpLogging } from '../../log/setup.ts'
import { listenToSignals, Shutdown } from '../../worker/shutdown.ts'
import { StrayErrors } from '../../worker/stray-errors.ts'
import { Worker } from '../../worker/worker.ts'
import { banner } from '../banner.ts'
import type { CliCommand } from '../command.ts'
import type { CliContext } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { commaList, seconds, wholeNumber } from '../option-values.ts'
import { createPidfile, PidfileError } from '../pidfile.ts'

interface Options {
  hostname?: string
  loglevel: LevelName
  logfile?: string
  pidfile?: string
  json?: boolean
  concurrency?: number | 'auto'
  pool?: string
  queues?: string[]
  excludeQueues?: string[]
  include?: string[]
  prefetchMultiplier?: number
  disablePrefetch?: boolean
  softTimeLimit?: number
  timeLimit?: number
  maxTasksPerChild?: number
  maxMemoryPerChild?: number
  poolStartMethod?: string
  purge?: boolean
  discard?: boolean
}

/** Options of Celery's worker that are to come, with why they are refused rather than ignored. */
const TO_COME: ReadonlyArray<readonly [flags: string, reason: string]> = [
  ['-D, --detach', 'run it with a process manager such as systemd'],
  ['-S, --statedb <file>', 'revoked ids are not kept over restarts yet'],
  ['--autoscale <max,min>', 'the number of tasks at once is fixed: say -c'],
  ['-B, --beat', 'beat is not built yet'],
  ['-s, --schedule <file>', 'beat is not built yet'],
  ['--scheduler <class>', 'beat is not built yet'],
  ['--uid <user>', 'start it as that user'],
  ['--gid <group>', 'start it as that group'],
  ['--umask <mask>', 'set the umask before'],
  ['--executable <file>', 'start it with that executable'],
]

/** Options about processes that can be killed, which the pool must have. */
const NEED_KILL = {
  timeLimit: '--time-limit',
  maxTasksPerChild: '--max-tasks-per-child',
  maxMemoryPerChild: '--max-memory-per-child',
  poolStartMethod: '--pool-start-method',
} as const

const log = getLogger('celery.apps.worker')

/** `celeriac worker`: takes tasks from queues and runs them. */
export const workerCommand: CliCommand = {
  name: 'worker',
  summary: 'Start worker instance.',
  configure(command) {
    command
      .argument('[settings...]', 'settings as name=value, such as worker.prefetch_multiplier=8')
      .usage('[options] [settings...]')
    addWorkerOptions(command)
    addPoolOptions(command)
    addQueueOptions(command)
    for (const [flags] of TO_COME) command.addOption(new Option(flags, 'not supported yet').hideHelp())
  },
  async run(context, given, [settings]) {
    const options = given as unknown as Options
    refuseWhatIsToCome(given)
    const app = await context.app()
    app.conf.update(settingsFromCommandLine((settings as string[] | undefined) ?? [], 'worker'))
    await context.importTaskModules(options.include)
    setUpWorkerLogging(context, app, options)
    const worker = new Worker(app, workerOptions(options))
    warnOfWhatThePoolLacks(worker, options)
    if (app.tasks.size === 0) {
      log.warning(
        'The app has no tasks: whatever this worker takes fails as not registered. Name the module that has them with -A.',
      )
    }
    if (options.purge === true || options.discard === true) await purge(context, worker)
    return runWithPidfile(options.pidfile, worker, () => runWorker(context, worker, options.loglevel))
  },
}

function addWorkerOptions(command: Command): void {
  command
    .option('-n, --hostname <name>', "node name, such as 'w1@%h' (%h: host, %n: its first part, %d: domain)")
    .addOption(
      new Option('-l, --loglevel <level>', 'DEBUG, INFO, WARNING, ERROR, CRITICAL or FATAL')
        .argParser(parseLevel)
        .default('WARNING'),
    )
    .option('-f, --logfile <file>', 'file to log to; %n, %h, %d are parts of the node name. Default: stderr')
    .option('--json', 'log a JSON object a line')
    .option('--pidfile <file>', 'file for the process id')
    .addOption(new Option('-O, --optimization <profile>', 'accepted').choices(['default', 'fair']).hideHelp())
    .option(
      '--prefetch-multiplier <number>',
      'messages held for each task that can run at once',
      wholeNumber(0),
    )
    .option('--disable-prefetch', 'hold no more messages than tasks can run at once')
}

function addPoolOptions(command: Command): void {
  command
    .addOption(
      new Option('-c, --concurrency <number>', 'tasks that run at once; default 100 for async').argParser(
        (text) => (text === 'auto' ? text : wholeNumber(1)(text)),
      ),
    )
    .option('-P, --pool <pool>', 'async (also gevent, eventlet) or solo')
    .option('-E, --task-events', 'accepted; task events are not sent yet')
    .addOption(new Option('--events', 'as --task-events').hideHelp())
    .option('--soft-time-limit <seconds>', "seconds after which a task's signal fires", seconds)
    .option('--time-limit <seconds>', 'hard limit: needs a pool of processes', seconds)
    .addOption(
      new Option('--max-tasks-per-child <number>', 'for pools of processes')
        .argParser(wholeNumber(1))
        .hideHelp(),
    )
    .addOption(
      new Option('--max-memory-per-child <KiB>', 'for pools of processes')
        .argParser(wholeNumber(1))
        .hideHelp(),
    )
    .addOption(
      new Option('--pool-start-method <method>', 'for pools of processes')
        .choices(['fork', 'spawn'])
        .hideHelp(),
    )
}

function addQueueOptions(command: Command): void {
  command
    .option('-Q, --queues <names>', 'queues to consume, with commas between them', commaList)
    .option('-X, --exclude-queues <names>', 'queues not to consume', commaList)
    .option('-I, --include <modules>', 'more modules to import', commaList)
    .option('--purge', 'remove what waits in the queues first')
    .addOption(new Option('--discard', 'as --purge').hideHelp())
    .addOption(new Option('--without-gossip', 'accepted').hideHelp())
    .addOption(new Option('--without-mingle', 'accepted').hideHelp())
    .addOption(new Option('--without-heartbeat', 'accepted').hideHelp())
    .addOption(new Option('--heartbeat-interval <seconds>', 'accepted').argParser(seconds).hideHelp())
}

function refuseWhatIsToCome(given: Readonly<Record<string, unknown>>): void {
  for (const [flags, reason] of TO_COME) {
    const option = new Option(flags)
    if (given[option.attributeName()] === undefined) continue
    throw new CeleriacError('ERR_CELERIAC_NOT_SUPPORTED', `${option.long} is not supported yet: ${reason}`)
  }
}

function setUpWorkerLogging(context: CliContext, app: Celery, options: Options): void {
  setUpLogging(app.conf, {
    level: options.loglevel,
    file: options.logfile,
    hostname: nodeName(options.hostname),
    color: context.options.color,
    json: options.json,
  })
  logNativeRecords(options.loglevel)
}

function workerOptions(options: Options): ConstructorParameters<typeof Worker>[1] {
  const { concurrency, disablePrefetch, prefetchMultiplier } = options
  return {
    hostname: options.hostname,
    concurrency: concurrency === 'auto' ? undefined : concurrency,
    pool: options.pool,
    queues: options.queues,
    excludeQueues: options.excludeQueues,
    prefetchMultiplier: disablePrefetch === true ? 1 : prefetchMultiplier,
    softTimeLimit: options.softTimeLimit,
  }
}

function warnOfWhatThePoolLacks(worker: Worker, options: Options): void {
  const { name, canKill, maxConcurrency } = worker.poolDefinition
  const lacking = Object.entries(NEED_KILL).filter(
    ([option]) => options[option as keyof Options] !== undefined,
  )
  if (!canKill && lacking.length > 0) {
    const flags = lacking.map(([, flag]) => flag).join(', ')
    log.warning(
      `The pool ${name} cannot end a task by force: ${flags} changes nothing. Use --soft-time-limit.`,
    )
  }
  const wanted = options.concurrency
  if (maxConcurrency !== null && typeof wanted === 'number' && wanted > maxConcurrency) {
    log.warning(`The pool ${name} runs ${maxConcurrency} task at a time: -c ${wanted} changes nothing.`)
  }
  if (resolveBroker(worker.app.conf).isDefault) {
    log.warning('No broker is named: tasks go through the file celeriac.db in the working directory.')
  }
}

async function purge(context: CliContext, worker: Worker): Promise<void> {
  let purged = 0
  for (const { name } of worker.queues) purged += await worker.app.broker.purge(name)
  if (purged > 0)
    context.print(`purge: Erased ${purged} ${purged === 1 ? 'message' : 'messages'} from the queue.\n`)
}

async function runWithPidfile(
  path: string | undefined,
  worker: Worker,
  run: () => Promise<number>,
): Promise<number> {
  if (path === undefined) return run()
  let remove: () => void
  try {
    remove = createPidfile(expandNodeName(path, worker.hostname))
  } catch (error) {
    if (!(error instanceof PidfileError)) throw error
    process.stderr.write(`Error: ${error.message}\n`)
    return exitCodes.cannotCreate
  }
  try {
    return await run()
  } finally {
    remove()
  }
}

/** Runs a worker until it is told to end; gives the exit code. */
async function runWorker(context: CliContext, worker: Worker, level: LevelName): Promise<number> {
  const { conf } = worker.app
  const shutdown = new Shutdown(worker, {
    softTimeout: conf.workerSoftShutdownTimeout,
    softOnIdle: conf.workerEnableSoftShutdownOnIdle,
    remapSigterm: process.env['REMAP_SIGTERM'] === 'SIGQUIT',
    say: (line) => context.print(`\n${line}`),
    exit: (code) => process.exit(code),
  })
  worker.onShutdown = () => shutdown.stop()
  const stopListening = listenToSignals(shutdown)
  const stray = new StrayErrors(worker)
  stray.listen()
  const ended = Promise.race([shutdown.ended, stray.crashed.then(() => exitCodes.software)])
  ended.catch(() => {})
  try {
    context.say(banner(worker, level))
    const started = worker.start().then(
      () => 'started' as const,
      (error: unknown) => {
        // Whoever was told to end while it waited for its broker has not failed.
        if (shutdown.requested || stray.isCrashing) return ended
        throw error
      },
    )
    const code = await Promise.race([started, ended])
    if (code !== 'started') return code
    log.info(`${worker.hostname} ready.`)
    // It ends by a signal, by remote control, with its app, or because it cannot go on.
    const finished = worker.finished().then(() => {
      if (shutdown.requested || stray.isCrashing) return ended
      log.info('The worker ends, because its app was closed.')
      return exitCodes.ok
    })
    return await Promise.race([ended, finished])
  } catch (error) {
    // Nothing is waited for that can no longer be stored.
    await worker.terminate().catch(() => {})
    throw error
  } finally {
    stopListening()
    stray.stopListening()
    flushLog()
  }
}
