/** A RabbitMQ of its own: see `crates/celeriac-testkit/src/bin/rabbitmq.rs`. */

import { afterTest } from './after-test.ts'
import { startAid } from './aid.ts'

/** How long RabbitMQ may take to start or to obey, in seconds; several start side by side. */
const DEADLINE = 120

/** What a queue holds. */
export interface QueueCounts {
  /** Messages that wait. */
  ready: number
  /** Messages that consumers have and did not settle. */
  unacknowledged: number
}

/** A RabbitMQ server on ports of its own. */
export interface RabbitMq {
  /** With its user and the virtual host `/`. */
  readonly url: string
  readonly port: number
  readonly processId: number
  /** Calls `rabbitmqctl`; what it printed. */
  ctl(...args: string[]): Promise<string>
  /** Every queue with what it holds. */
  queues(): Promise<Map<string, QueueCounts>>
  /** SIGKILL. */
  kill(): Promise<void>
  /** On the same port, with the same data. */
  start(): Promise<void>
  stop(): Promise<void>
}

/** Starts RabbitMQ. */
export async function startRabbitMq(): Promise<RabbitMq> {
  const server = await startAid('CELERIAC_RABBITMQ', [], DEADLINE)
  const { port, processId } = JSON.parse(server.first) as { port: number; processId: number }
  const obey = async (command: string): Promise<{ output?: string }> => {
    const answer = JSON.parse(await server.tell(command)) as { error?: string; output?: string }
    if (answer.error !== undefined) throw new Error(`RabbitMQ did not obey ${command}: ${answer.error}`)
    return answer
  }
  const ctl = async (...args: string[]): Promise<string> =>
    (await obey(`ctl ${JSON.stringify(args)}`)).output ?? ''
  const { stop } = server
  afterTest(stop)
  return {
    url: `amqp://guest:guest@127.0.0.1:${port}//`,
    port,
    processId,
    ctl,
    async queues() {
      const columns = ['name', 'messages_ready', 'messages_unacknowledged']
      const text = await ctl('--quiet', '--formatter', 'json', 'list_queues', ...columns)
      const rows = JSON.parse(text) as Array<{ name: string } & Record<string, number>>
      return new Map(
        rows.map((row) => [
          row.name,
          {
            ready: row['messages_ready'] as number,
            unacknowledged: row['messages_unacknowledged'] as number,
          },
        ]),
      )
    },
    kill: async () => void (await obey('kill')),
    start: async () => void (await obey('start')),
    stop,
  }
}
