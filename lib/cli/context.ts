import pc from 'picocolors'

import { Celery } from '../app.ts'
import { findApp } from './find-app.ts'
import { importModule } from './import-module.ts'

/** Options of every command. */
export interface GlobalOptions {
  readonly app?: string
  readonly config?: string
  readonly quiet: boolean
  /** False for `--no-color`; undefined leaves it to the terminal. */
  readonly color: boolean | undefined
}

/** What a command works with. */
export class CliContext {
  readonly options: GlobalOptions
  /** Colours for standard output. */
  readonly colors: ReturnType<typeof pc.createColors>
  #app: Celery | undefined

  constructor(options: GlobalOptions) {
    this.options = options
    this.colors = pc.createColors(
      options.color ?? (process.stdout.isTTY === true && !process.env['NO_COLOR']),
    )
  }

  /** Writes a line to standard output. */
  print(line: string): void {
    process.stdout.write(`${line}\n`)
  }

  /** Writes a line that `-q` silences. */
  say(line: string): void {
    if (!this.options.quiet) this.print(line)
  }

  /** The app that `-A` names; without it, one that knows what the environment and `-b` say, and no tasks. */
  async app(): Promise<Celery> {
    if (this.#app !== undefined) return this.#app
    const { app: name, config } = this.options
    const app = name === undefined ? new Celery('celeriac') : await findApp(name)
    if (config !== undefined) app.configFromObject(await importModule(config, process.cwd()))
    this.#app = app
    return app
  }

  /** Imports the modules that `imports`, `include` and a command line name: those that register tasks. */
  async importTaskModules(more: readonly string[] = []): Promise<void> {
    const { conf } = await this.app()
    for (const name of new Set([...conf.imports, ...conf.include, ...more]))
      await importModule(name, process.cwd())
  }

  /** Closes the app, if one was made. */
  async close(): Promise<void> {
    await this.#app?.close()
  }
}
