import { Command, CommanderError, type HelpConfiguration, Option } from 'commander'

import { CeleriacError } from '../errors.ts'
import { stackOf } from '../log/record.ts'
import type { CliCommand, CliEntry } from './command.ts'
import { commands } from './commands.ts'
import { CliContext } from './context.ts'
import { exitCodeOf, exitCodes } from './exit-codes.ts'
import { packageVersion } from './version.ts'

/**
 * Runs the command line with these arguments, those after the name of the program; gives the exit code. Errors go to
 * standard error in one line with their code; with CELERIAC_DEBUG set, with their stack.
 */
export async function runCommandLine(
  args: readonly string[],
  table: readonly CliEntry[] = commands,
): Promise<number> {
  let code: number = exitCodes.ok
  const program = newProgram(packageVersion())
  const done = (given: number): void => {
    code = given
  }
  for (const entry of table) {
    if ('commands' in entry) {
      const group = newCommand(program, entry)
      for (const command of entry.commands) addCommand(program, group, command, done)
    } else addCommand(program, program, entry, done)
  }
  try {
    if (args.length === 0) program.outputHelp()
    else await program.parseAsync([...args], { from: 'user' })
    return code
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage
    return reportError(error)
  }
}

/** A command whose options are read from the environment too, as in Celery: `CELERY_WORKER_CONCURRENCY`. */
class EnvironmentCommand extends Command {
  override addOption(option: Option): this {
    const name = option.attributeName().replace(/[A-Z]/g, (letter) => `_${letter}`)
    const group = this.parent instanceof EnvironmentCommand ? `${this.parent.name()}_` : ''
    option.env(`CELERY_${group}${this.name()}_${name}`.toUpperCase())
    return super.addOption(option)
  }
}

function newProgram(version: string): Command {
  return new Command('celeriac')
    .description('Celery for Node.js: workers, calls and results.')
    .usage('[options] COMMAND [arguments]')
    .version(version, '--version', 'print the version')
    .addOption(
      new Option('-A, --app <module>', 'module of the app, such as ./app.ts or ./app.ts:name').env(
        'CELERY_APP',
      ),
    )
    .option('-b, --broker <url>', 'URL of the broker')
    .option('--result-backend <url>', 'URL of the result backend')
    .addOption(new Option('--config <module>', 'module with settings').env('CELERY_CONFIG_MODULE'))
    .option('--workdir <folder>', 'change to this folder first')
    .option('-C, --no-color', 'no colours')
    .option('-q, --quiet', 'say less')
    .configureHelp(HELP)
    .showSuggestionAfterError()
    .exitOverride()
}

/** Every option can come from the environment: saying so at each would bury the help. */
const HELP: HelpConfiguration = {
  optionDescription: ({ description, defaultValue }) =>
    typeof defaultValue === 'string' ? `${description} (default: ${defaultValue})` : description,
}

function newCommand(parent: Command, { name, summary }: CliEntry): Command {
  const command = new EnvironmentCommand(name).copyInheritedSettings(parent)
  command.summary(summary).description(summary)
  parent.addCommand(command)
  return command
}

function addCommand(
  program: Command,
  parent: Command,
  definition: CliCommand,
  done: (code: number) => void,
): void {
  const command = newCommand(parent, definition)
  definition.configure(command)
  command.action(async (...parameters: unknown[]) => {
    const options = command.opts()
    const args = parameters.slice(0, -2)
    const context = newContext(program)
    let failed = true
    try {
      done(await definition.run(context, options, args))
      failed = false
    } finally {
      // What closing comes to says nothing new where the command itself has failed.
      await (failed ? context.close().catch(() => {}) : context.close())
    }
  })
}

function newContext(program: Command): CliContext {
  const options = program.opts<{
    app?: string
    broker?: string
    resultBackend?: string
    config?: string
    workdir?: string
    color: boolean
    quiet?: boolean
  }>()
  if (options.workdir !== undefined) changeFolder(options.workdir)
  // As in Celery they go before what an app says itself.
  const broker = options.broker ?? process.env['BROKER_URL']
  const backend = options.resultBackend ?? process.env['RESULT_BACKEND']
  if (broker) process.env['CELERY_BROKER_URL'] = broker
  if (backend) process.env['CELERY_RESULT_BACKEND'] = backend
  return new CliContext({
    ...(options.app === undefined ? {} : { app: options.app }),
    ...(options.config === undefined ? {} : { config: options.config }),
    quiet: options.quiet ?? false,
    color: options.color ? undefined : false,
  })
}

function changeFolder(folder: string): void {
  try {
    process.chdir(folder)
  } catch (cause) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      `cannot change to the folder ${folder} (--workdir)`,
      { cause },
    )
  }
}

/** Says what went wrong; gives the exit code. */
function reportError(error: unknown): number {
  const isOurs = error instanceof CeleriacError
  const debug = Boolean(process.env['CELERIAC_DEBUG'])
  const line = isOurs ? `Error: ${error.message} (${error.code})` : `Error: ${stackOf(error)}`
  process.stderr.write(`${line}\n${debug && isOurs ? `${stackOf(error)}\n` : ''}`)
  return isOurs ? exitCodeOf(error.code) : exitCodes.failure
}
