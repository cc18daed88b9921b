/** A relay before RabbitMQ that counts what passes, frame by frame. */

import { once } from 'node:events'
import { createConnection, createServer, type Server, type Socket } from 'node:net'

/** Methods by class and number, by the names that AMQP 0-9-1 has for them. */
const METHODS: Readonly<Record<string, string>> = {
  '60.10': 'basic.qos',
  '60.40': 'basic.publish',
  '60.60': 'basic.deliver',
  '60.80': 'basic.ack',
  '60.90': 'basic.reject',
  '60.120': 'basic.nack',
}

/** How often each kind of frame passed: `basic.ack` of a client's, say. */
export class FrameCounter {
  readonly port: number
  /** By what clients sent. */
  readonly sent = new Map<string, number>()
  /** By what clients got. */
  readonly got = new Map<string, number>()
  /** Connections that were opened. */
  connections = 0
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  private constructor(server: Server, target: number) {
    this.#server = server
    this.port = (server.address() as { port: number }).port
    server.on('connection', (client) => {
      this.connections += 1
      const broker = createConnection(target, '127.0.0.1')
      this.#join(client, broker, counting(this.sent, 8))
      this.#join(broker, client, counting(this.got, 0))
    })
  }

  /** Listens on a port of its own, and leads to one on this machine. */
  static async start(target: number): Promise<FrameCounter> {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new FrameCounter(server, target)
  }

  /** Begins to count anew. */
  reset(): void {
    this.sent.clear()
    this.got.clear()
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, 'close')
  }

  #join(from: Socket, to: Socket, count: (chunk: Buffer) => void): void {
    this.#sockets.add(from)
    from.setNoDelay(true)
    from.on('data', (chunk: Buffer) => {
      count(chunk)
      to.write(chunk)
    })
    from.on('error', () => {})
    from.on('close', () => {
      this.#sockets.delete(from)
      to.destroy()
    })
  }
}

/** Takes a stream in parts and counts its frames; the first bytes are none. */
function counting(counts: Map<string, number>, before: number): (chunk: Buffer) => void {
  let rest = Buffer.alloc(0)
  let skip = before
  return (chunk) => {
    rest = Buffer.concat([rest, chunk])
    if (rest.length < skip) return
    rest = rest.subarray(skip)
    skip = 0
    while (rest.length >= 7 && rest.length >= 8 + rest.readUInt32BE(3)) {
      const end = 8 + rest.readUInt32BE(3)
      const name = nameOf(rest)
      counts.set(name, (counts.get(name) ?? 0) + 1)
      rest = rest.subarray(end)
    }
  }
}

function nameOf(frame: Buffer): string {
  if (frame[0] === 8) return 'heartbeat'
  if (frame[0] !== 1) return frame[0] === 2 ? 'header' : 'body'
  const method = `${frame.readUInt16BE(7)}.${frame.readUInt16BE(9)}`
  return METHODS[method] ?? method
}
