import { release, type as systemType } from 'node:os'

import { maskUrl } from '../config/mask.ts'
import { resolveBroker, resolveResultBackend } from '../config/resolve.ts'
import type { LevelName } from '../log/level.ts'
import { asctime } from '../log/time.ts'
import type { Worker } from '../worker/worker.ts'
import { packageVersion } from './version.ts'

/**
 * What a worker says of itself when it starts: node name, broker and results without passwords, concurrency, queues,
 * and, from the level INFO down, its tasks; those of celeriac's own for DEBUG only.
 */
export function banner(worker: Worker, level: LevelName): string {
  const { app } = worker
  const { write, isDefault } = resolveBroker(app.conf)
  const backend = resolveResultBackend(app.conf)
  const lines = [
    '',
    `${worker.hostname} v${packageVersion()} (celeriac)`,
    '',
    `${systemType()}-${release()} Node.js ${process.version} ${asctime(Date.now()).slice(0, 19)}`,
    '',
    '[config]',
    `.> app:         ${app.main}`,
    `.> transport:   ${maskUrl(write[0])}${isDefault ? ' (the embedded one, as no broker is named)' : ''}`,
    `.> results:     ${backend === null ? 'disabled://' : maskUrl(backend)}`,
    `.> concurrency: ${worker.concurrency} (${worker.poolDefinition.name})`,
    '.> task events: OFF',
    '',
    '[queues]',
    ...worker.queues.map(
      ({ name, exchange, routingKey }) =>
        `.> ${name.padEnd(16)} exchange=${exchange.name}(${exchange.kind}) key=${routingKey}`,
    ),
    '',
  ]
  if (level === 'DEBUG' || level === 'INFO') {
    const names = [...app.tasks.keys()].filter((name) => level === 'DEBUG' || !name.startsWith('celery.'))
    lines.push('[tasks]', ...names.toSorted().map((name) => `  . ${name}`), '')
  }
  return lines.join('\n')
}
