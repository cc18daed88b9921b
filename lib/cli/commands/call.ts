import type { ApplyAsyncOptions } from '../../call-options.ts'
import type { CliCommand } from '../command.ts'
import { exitCodes } from '../exit-codes.ts'
import { isoTime, jsonArray, jsonObject, seconds, secondsOrTime } from '../option-values.ts'

type Options = ApplyAsyncOptions & { args?: unknown[] }

/** `celeriac call NAME`: sends a task by name, prints its id. */
export const callCommand: CliCommand = {
  name: 'call',
  summary: 'Call a task by name.',
  configure(command) {
    command
      .argument('<name>', 'name of the task')
      .option('-a, --args <json array>', 'positional arguments', jsonArray)
      .option('-k, --kwargs <json object>', 'keyword arguments', jsonObject)
      .option('--eta <time>', 'when to run it, in ISO 8601', isoTime)
      .option('--countdown <seconds>', 'seconds from now until it runs', seconds)
      .option('--expires <time>', 'when it expires: seconds from now, or ISO 8601', secondsOrTime)
      .option('--serializer <name>', 'serializer of the message')
      .option('--queue <name>', 'queue to send it to')
      .option('--exchange <name>', 'exchange to send it to')
      .option('--routing-key <key>', 'routing key')
  },
  async run(context, options, [name]) {
    const { args = [], ...rest } = options as Options
    const app = await context.app()
    const result = await app.sendTask(String(name), args, rest)
    context.print(result.id)
    return exitCodes.ok
  },
}
