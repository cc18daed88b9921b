/** What the figures were measured on. */

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { python } from '../../__test__/support/processes.ts'
import { provided } from './programs.ts'

export interface Machine {
  processors: number
  model: string
  memoryGiB: number
  system: string
  versions: Record<string, string>
}

export function describeMachine(rabbitmq: string | null): Machine {
  return {
    processors: availableParallelism(),
    model: cpus()[0]?.model ?? 'unknown',
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `${distribution()}, Linux ${release().replace(/-.*/, '')}`,
    versions: {
      Node: process.versions.node,
      ...pythonVersions(),
      ...peerVersions(),
      Redis: /v=([\d.]+)/.exec(outputOf('redis-server', ['--version']))?.[1] ?? 'unknown',
      ...(rabbitmq === null ? {} : { RabbitMQ: rabbitmq }),
      Rust: /[\d.]+/.exec(outputOf('rustc', ['--version']))?.[0] ?? 'unknown',
    },
  }
}

function outputOf(command: string, args: string[]): string {
  return spawnSync(command, args, { encoding: 'utf8' }).stdout ?? ''
}

function distribution(): string {
  try {
    return /^PRETTY_NAME="(.*)"$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? process.platform
  } catch {
    return process.platform
  }
}

function pythonVersions(): Record<string, string> {
  const code =
    'import json, platform, celery, redis; ' +
    'print(json.dumps({"Python": platform.python_version(), "Celery": celery.__version__, "redis-py": redis.__version__}))'
  return JSON.parse(outputOf(python(), ['-c', code])) as Record<string, string>
}

function peerVersions(): Record<string, string> {
  const { dependencies } = JSON.parse(
    readFileSync(join(provided('CELERIAC_BENCH_PEERS'), 'package.json'), 'utf8'),
  ) as { dependencies: { bullmq: string; ioredis: string } }
  return { BullMQ: dependencies.bullmq, ioredis: dependencies.ioredis }
}
