import { CeleriacError } from '../../errors.ts'
import type { CliCommand } from '../command.ts'
import type { CliContext } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'

/** What can be listed. */
const LISTS: Readonly<Record<string, (context: CliContext) => Promise<void>>> = {
  async bindings(context) {
    const app = await context.app()
    const rows = app.router
      .consumedQueues()
      .map(({ name, exchange, routingKey }) => [name, exchange.name, routingKey])
    printTable(context, ['Queue', 'Exchange', 'Routing Key'], rows)
  },
  async queues(context) {
    const app = await context.app()
    const rows: string[][] = []
    for (const { name } of app.router.consumedQueues())
      rows.push([name, String(await app.broker.queueLength(name))])
    printTable(context, ['Queue', 'Messages'], rows)
  },
  async tasks(context) {
    await context.importTaskModules()
    const app = await context.app()
    for (const name of [...app.tasks.keys()].toSorted()) context.print(name)
  },
}

/** `celeriac list bindings|queues|tasks`. */
export const listCommand: CliCommand = {
  name: 'list',
  summary: 'List the bindings or queues of an app, with the messages that wait, or its tasks.',
  configure(command) {
    command.argument('<what>', Object.keys(LISTS).join(', '))
  },
  async run(context, _options, [what]) {
    const list = Object.hasOwn(LISTS, String(what)) ? LISTS[String(what)] : undefined
    if (list === undefined) {
      throw new CeleriacError(
        'ERR_CELERIAC_INVALID_ARGUMENT',
        `'${String(what)}' cannot be listed: choose ${Object.keys(LISTS).join(', ')}`,
      )
    }
    await list(context)
    return exitCodes.ok
  },
}

function printTable(
  context: CliContext,
  head: readonly string[],
  rows: ReadonlyArray<readonly string[]>,
): void {
  const line = (cells: readonly string[]): string =>
    cells.map((cell, index) => (index === cells.length - 1 ? cell : cell.padEnd(28))).join(' ')
  context.print(line(head))
  context.print(line(head.map(() => '-'.repeat(16))))
  for (const row of rows) context.print(line(row))
}
