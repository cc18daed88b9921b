import type { Celery } from './app.ts'
import { encodeJson } from './serialization/encode.ts'

/** How to revoke. */
export interface RevokeOptions {
  /** End the task if it runs: its `signal` fires, or its process is killed. Default false. */
  terminate?: boolean | undefined
  /** The signal that a Python worker kills its process with. Default SIGTERM. */
  signal?: string | undefined
  /** Only these workers, by node name. Default: all. */
  destination?: readonly string[] | undefined
}

/** Remote control of workers: `app.control`. */
export class Control {
  readonly #app: Celery
  #clock = 0

  constructor(app: Celery) {
    this.#app = app
  }

  /** Has workers not run these tasks. Resolves when the broker has the command, which no worker answers. */
  async revoke(taskId: string | readonly string[], options: RevokeOptions = {}): Promise<void> {
    const { terminate = false, signal = 'SIGTERM', destination = null } = options
    await this.broadcast('revoke', { task_id: taskId, terminate, signal }, { destination })
  }

  /** Sends a command to all workers, or to those of `destination`; waits for no reply. */
  async broadcast(
    method: string,
    args: Readonly<Record<string, unknown>> = {},
    options: { destination?: readonly string[] | null } = {},
  ): Promise<void> {
    const message = {
      method,
      arguments: args,
      destination: options.destination ?? null,
      pattern: null,
      matcher: null,
    }
    const exchange = { name: `${this.#app.conf.controlExchange}.pidbox`, type: 'fanout' }
    this.#clock += 1
    const headers = { clock: this.#clock, expires: 0 }
    await this.#app.broker.publishMessage(
      exchange,
      '',
      encodeJson(message, 'command'),
      encodeJson(headers, 'headers'),
      '{}',
    )
  }
}
