import type { Command } from 'commander'

import type { CliContext } from './context.ts'

/** A command of the command line: a file in `commands/` and a line in `commands.ts`. */
export interface CliCommand {
  readonly name: string
  /** One line for the list of commands. */
  readonly summary: string
  /** Declares arguments and options. */
  configure(command: Command): void
  /** Does it; gives the exit code. */
  run(
    context: CliContext,
    options: Readonly<Record<string, unknown>>,
    args: readonly unknown[],
  ): Promise<number>
}

/** Commands under one name, such as `celeriac dead list`: each says itself what it takes. */
export interface CliCommandGroup {
  readonly name: string
  /** One line for the list of commands. */
  readonly summary: string
  readonly commands: readonly CliCommand[]
}

/** A row of the table of commands. */
export type CliEntry = CliCommand | CliCommandGroup
