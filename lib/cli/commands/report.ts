import { arch, release, type as systemType } from 'node:os'

import { maskUrl } from '../../config/mask.ts'
import { resolveBroker, resolveResultBackend } from '../../config/resolve.ts'
import { native } from '../../native.ts'
import type { CliCommand } from '../command.ts'
import { exitCodes } from '../exit-codes.ts'
import { packageVersion } from '../version.ts'

/** `celeriac report`: what a bug report needs, without secrets. */
export const reportCommand: CliCommand = {
  name: 'report',
  summary: 'Show what a bug report needs: versions and settings, secrets masked.',
  configure() {},
  async run(context) {
    await context.importTaskModules()
    const app = await context.app()
    const [broker] = resolveBroker(app.conf).write
    const backend = resolveResultBackend(app.conf)
    context.print(
      `software -> celeriac:${packageVersion()} (core ${coreVersion()}) node:${process.versions.node}`,
    )
    context.print(`platform -> system:${systemType()} arch:${arch()} kernel version:${release()}`)
    context.print(`app      -> ${app.main} tasks:${app.tasks.size}`)
    context.print(`broker   -> ${maskUrl(broker)}`)
    context.print(`results  -> ${backend === null ? 'disabled' : maskUrl(backend)}`)
    const settings = app.conf.humanize()
    if (settings !== '') context.print(`\n${settings}`)
    return exitCodes.ok
  },
}

/** The core may be what is missing. */
function coreVersion(): string {
  try {
    return native().version()
  } catch {
    return 'missing'
  }
}
