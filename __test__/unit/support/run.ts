import type { Celery } from '../../../lib/app.ts'
import { configureLogging } from '../../../lib/log/logger.ts'
import type { LogRecord } from '../../../lib/log/record.ts'
import type { DeliveredRequest, Delivery } from '../../../lib/request.ts'
import { TaskRunner } from '../../../lib/worker/run-task.ts'
import { Settler } from '../../../lib/worker/settle.ts'
import { TaskLog } from '../../../lib/worker/task-log.ts'
import { FakeBroker } from './fake-native.ts'

/** A settlement as the core gets it, with its messages by the names of their tasks. */
export interface Settled {
  readonly tag: number
  readonly outcome: number
  readonly state: string | null
  readonly result: unknown
  readonly traceback: string | null
  readonly children: unknown
  readonly publish: ReadonlyArray<{
    readonly task: string
    readonly routingKey: string
    readonly id: string
    readonly args: unknown
    readonly kwargs: unknown
    readonly options: Record<string, unknown>
  }>
}

/** A runner whose settlements and log lines are kept. */
export class RunnerHarness {
  readonly runner: TaskRunner
  readonly settler: Settler
  /** Batches as they were handed over. */
  readonly batches: string[] = []
  readonly records: LogRecord[] = []
  #tag = 0

  constructor(app: Celery, softTimeLimit: number | null = null) {
    this.settler = new Settler((batch) => this.batches.push(batch))
    this.runner = new TaskRunner({
      app,
      hostname: 'celery@test',
      settler: this.settler,
      log: new TaskLog((json, maxLength) => json.slice(0, maxLength)),
      softTimeLimit,
    })
    const keep = (record: LogRecord): string => {
      this.records.push(record)
      return ''
    }
    const sink = { write() {}, flush() {}, close() {} }
    configureLogging({ level: 'DEBUG', format: keep, taskFormat: keep, sink })
  }

  /** What was settled, in order. */
  get settled(): Settled[] {
    this.settler.flush()
    const lines = this.batches.flatMap((batch) => batch.trimEnd().split('\n'))
    return lines.map((line) => readSettlement(JSON.parse(line) as RawSettlement))
  }

  /** The lines that were logged, as `LEVEL message`. */
  get lines(): string[] {
    return this.records.map(({ level, message }) => `${level} ${message}`)
  }

  delivery(
    name: string,
    args: unknown[] = [],
    request: DeliveredRequest = {},
    kwargs: Record<string, unknown> = {},
    tagged = false,
  ): Delivery {
    this.#tag += 1
    return [this.#tag, name, `id-${this.#tag}`, args, kwargs, tagged, request]
  }

  /** Runs one delivery; gives its settlement. */
  async run(...delivery: Parameters<RunnerHarness['delivery']>): Promise<Settled> {
    const one = this.delivery(...delivery)
    await this.runner.run(one)
    const all = this.settled.filter(({ tag }) => tag === one[0])
    if (all.length !== 1) throw new Error(`delivery ${one[0]} was settled ${all.length} times`)
    return all[0] as Settled
  }
}

type RawPublication = [
  route: number,
  id: string,
  args: unknown,
  kwargs: unknown,
  options: Record<string, unknown> | null,
]
type RawSettlement = [number, number, string | null, unknown, string | null, unknown, RawPublication[] | null]

function readSettlement([tag, outcome, state, result, traceback, children, publish]: RawSettlement): Settled {
  const messages = (publish ?? []).map(([route, id, args, kwargs, options]) => {
    const to = FakeBroker.last.routes[route]
    return {
      task: to?.task ?? '',
      routingKey: to?.routingKey ?? '',
      id,
      args,
      kwargs,
      options: options ?? {},
    }
  })
  return { tag, outcome, state, result, traceback, children, publish: messages }
}
