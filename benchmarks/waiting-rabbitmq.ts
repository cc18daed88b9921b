// What waiting for messages on RabbitMQ costs: see README.md. Prints a table in Markdown and writes results/waiting-rabbitmq.json.

import { writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { measureWaiting, type WaitingFigures } from '../__test__/support/reliability/waiting.ts'
import { startRabbit } from './support/rabbitmq.ts'

const RATES = [
  { rate: 50, messages: 250 },
  { rate: 500, messages: 1000 },
] as const
const IDLE_SECONDS = 10

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '3' } } })
const rounds = Number(values.rounds)
const rabbit = await startRabbit()
const cells: { workers: number; queues: number; rounds: WaitingFigures[] }[] = []
try {
  for (const queues of [1, 10]) {
    for (const workers of [1, 5, 20]) {
      const cell: WaitingFigures[] = []
      for (let round = 1; round <= rounds; round++) {
        console.error(`${workers} workers on ${queues} queues, round ${round} of ${rounds}`)
        const options = { idleSeconds: IDLE_SECONDS, rates: RATES }
        cell.push(await measureWaiting(rabbit.url, { workers, queues }, options))
      }
      cells.push({ workers, queues, rounds: cell })
    }
  }
} finally {
  await rabbit.stop()
}

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? 0
const sum = (counts: ReadonlyMap<string, number>): number =>
  [...counts.values()].reduce((all, one) => all + one, 0)

/** The middle of all rounds. */
function row({ workers, queues, rounds: cell }: (typeof cells)[number]): string {
  const of = (figure: (one: WaitingFigures) => number): number => median(cell.map(figure))
  const cost = (place: number): string => {
    const at = (one: WaitingFigures) => one.rates[place] ?? raise()
    const each = (figure: (one: ReturnType<typeof at>) => number): string =>
      of((one) => figure(at(one)) / at(one).messages).toFixed(2)
    const deliveries = each(({ got }) => got.get('basic.deliver') ?? 0)
    const acknowledgements = each(({ sent }) => sent.get('basic.ack') ?? 0)
    const all = each(({ sent, got }) => sum(sent) + sum(got))
    return `${deliveries}, ${acknowledgements}, ${all} | ${of((one) => at(one).p50)} / ${of((one) => at(one).p99)}`
  }
  const idle = of((one) => sum(one.idle) / one.workers / one.idleSeconds).toFixed(2)
  return `| ${queues} × 4 | ${workers} | ${of(({ connections }) => connections)} | ${idle} | ${cost(0)} | ${cost(1)} |`
}

function raise(): never {
  throw new Error('a rate was not measured')
}

const parts = RATES.map(
  ({ rate }) => `deliveries, acks, frames a message at ${rate}/s | p50 / p99 µs at ${rate}/s`,
)
console.log(
  `RabbitMQ ${rabbit.version}, medians of ${rounds} rounds, load of the machine at the end ${loadavg()[0]?.toFixed(1)}\n`,
)
console.log(
  `| queues × priorities | idle workers | connections each | idle: frames/s each | ${parts.join(' | ')} |`,
)
console.log(`|${'---|'.repeat(8)}`)
for (const cell of cells) console.log(row(cell))
const plain = (_name: string, value: unknown): unknown =>
  value instanceof Map ? Object.fromEntries(value) : value
writeFileSync(
  join(import.meta.dirname, 'results', 'waiting-rabbitmq.json'),
  `${JSON.stringify({ version: rabbit.version, load: loadavg(), cells }, plain, 1)}\n`,
)
