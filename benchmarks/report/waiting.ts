/** What `npm run bench:waiting` found, for the table of `npm run bench`. */

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { number, table } from './markdown.ts'

/** What crates/celeriac-broker/examples/waiting.rs writes, as far as it is shown. */
interface Waiting {
  rounds: number
  rows: {
    queues: number
    workers: number
    who: string
    medians: Record<
      'slow p50' | 'slow p99' | 'slow scripts' | 'fast p50' | 'fast p99' | 'fast scripts' | 'idle commands',
      number
    >
  }[]
}

/** A section; nothing when that command was never run. */
export function waitingSection(results: string): string {
  const path = join(results, 'waiting.json')
  if (!existsSync(path)) return ''
  const { rounds, rows } = JSON.parse(readFileSync(path, 'utf8')) as Waiting
  const head = ['queues × priorities', 'workers', '', 'p50 / p99 µs at 50/s', 'p50 / p99 µs at 2,000/s']
  head.push('scripts a message at 50/s, 2,000/s', 'commands/s of an idle worker')
  const lines = rows.map(({ queues, workers, who, medians: found }) => [
    `${queues} × 4`,
    String(workers),
    who,
    `${number(found['slow p50'])} / ${number(found['slow p99'])}`,
    `${number(found['fast p50'])} / ${number(found['fast p99'])}`,
    `${number(found['slow scripts'])}, ${number(found['fast scripts'])}`,
    number(found['idle commands']),
  ])
  return [
    '## Idle workers on Redis',
    `From a run of \`npm run bench:waiting\` of its own: medians of ${rounds} rounds, of the transport alone. From before LPUSH is ` +
      'sent until a worker has the message in hand.',
    table(head, lines),
  ].join('\n\n')
}
