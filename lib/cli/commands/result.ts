import { encodeJson } from '../../serialization/encode.ts'
import type { CliCommand } from '../command.ts'
import { exitCodes } from '../exit-codes.ts'

/** `celeriac result ID`: waits for a result and prints it: text as it is, all else as JSON. */
export const resultCommand: CliCommand = {
  name: 'result',
  summary: 'Print the return value for a given task id.',
  configure(command) {
    command
      .argument('<task id>', 'id of the task')
      .option('-t, --task <name>', 'name of the task, which must be registered')
      .option('--traceback', 'print the traceback instead')
  },
  async run(context, options, [id]) {
    const app = await context.app()
    const { task } = options as { task?: string }
    const result =
      task === undefined ? app.AsyncResult(String(id)) : app.taskNamed(task).AsyncResult(String(id))
    if (options['traceback'] === true) {
      context.print((await result.traceback()) ?? 'null')
      return exitCodes.ok
    }
    const value = await result.get()
    context.print(typeof value === 'string' ? value : encodeJson(value, 'result'))
    return exitCodes.ok
  },
}
