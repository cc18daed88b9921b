import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'
import { createInterface, type Interface } from 'node:readline'

/** A connection that asks Redis for numbers, cheaply enough to do so while something is measured. */
export class RedisNumbers {
  readonly #socket: Socket
  readonly #lines: Interface

  private constructor(socket: Socket) {
    this.#socket = socket
    this.#lines = createInterface({ input: socket })
  }

  static async connect(port: number): Promise<RedisNumbers> {
    const socket = createConnection(port, '127.0.0.1').setNoDelay(true)
    await once(socket, 'connect')
    return new RedisNumbers(socket)
  }

  /** The answer to a command that answers with a number. One at a time. */
  async ask(command: string): Promise<number> {
    const answer = once(this.#lines, 'line')
    this.#socket.write(`${command}\r\n`)
    const [line] = (await answer) as [string]
    if (!line.startsWith(':')) throw new Error(`Redis answers ${line} to ${command}`)
    return Number(line.slice(1))
  }

  close(): void {
    this.#lines.close()
    this.#socket.destroy()
  }
}
