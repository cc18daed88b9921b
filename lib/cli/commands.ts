import type { CliEntry } from './command.ts'
import { callCommand } from './commands/call.ts'
import { deadCommands } from './commands/dead.ts'
import { listCommand } from './commands/list.ts'
import { purgeCommand } from './commands/purge.ts'
import { reportCommand } from './commands/report.ts'
import { resultCommand } from './commands/result.ts'
import { workerCommand } from './commands/worker.ts'

/** All commands; one is a line here and a file in `commands/`. */
export const commands: readonly CliEntry[] = [
  workerCommand,
  callCommand,
  resultCommand,
  purgeCommand,
  listCommand,
  deadCommands,
  reportCommand,
]
