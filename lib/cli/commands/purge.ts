import type { CliCommand } from '../command.ts'
import { confirm } from '../confirm.ts'
import { exitCodes } from '../exit-codes.ts'
import { commaList } from '../option-values.ts'

/** `celeriac purge`: removes what waits in the queues of an app. */
export const purgeCommand: CliCommand = {
  name: 'purge',
  summary: 'Erase all messages from all known task queues. This cannot be undone.',
  configure(command) {
    command
      .option('-f, --force', 'do not ask')
      .option('-Q, --queues <names>', 'queues to purge, with commas between them', commaList)
      .option('-X, --exclude-queues <names>', 'queues not to purge, with commas between them', commaList)
  },
  async run(context, options) {
    const app = await context.app()
    const { queues, excludeQueues = [] } = options as { queues?: string[]; excludeQueues?: string[] }
    const chosen = queues ?? app.router.consumedQueues().map(({ name }) => name)
    const names = [...new Set(chosen)].filter((name) => !excludeQueues.includes(name)).toSorted()
    if (names.length === 0) return exitCodes.ok
    const heading = names.length === 1 ? 'queue' : 'queues'
    if (
      options['force'] !== true &&
      !(await confirm(`This removes all tasks from the ${heading} ${names.join(', ')}.`))
    ) {
      context.print('Aborted!')
      return exitCodes.failure
    }
    let purged = 0
    for (const name of names) purged += await app.broker.purge(name)
    if (purged === 0) context.print(`No messages purged from ${names.length} ${heading}.`)
    else {
      const messages = purged === 1 ? 'message' : 'messages'
      context.print(`Purged ${purged} ${messages} from ${names.length} known task ${heading}.`)
    }
    return exitCodes.ok
  },
}
