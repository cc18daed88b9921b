/** AMQP 0-9-1 as far as it takes to put messages into a queue that no library would write. */

import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'
import { within } from './wait.ts'

/** A message of RabbitMQ; what is left out is not sent. Texts are sent as they are, whether they are UTF-8 or not. */
export interface AmqpMessage {
  readonly body: Buffer
  readonly contentType?: string | undefined
  readonly contentEncoding?: string | undefined
  /** The bytes of the table, without its length: see {@link tableOf}. */
  readonly headers?: Buffer | undefined
  readonly deliveryMode?: number | undefined
  readonly priority?: number | undefined
  readonly correlationId?: string | Buffer | undefined
  readonly replyTo?: string | undefined
  readonly expiration?: string | undefined
}

/** A value of a table that has no form in AMQP, or none that RabbitMQ takes. */
export class NotInAmqp extends Error {}

/** As many tables as may be in each other for celeriac, and more than anybody writes. */
const DEEPEST = 60

/** The fields of a table, with the types that py-amqp gives them. */
export function tableOf(fields: Readonly<Record<string, unknown>>, depth = 0): Buffer {
  if (depth > DEEPEST) throw new NotInAmqp('it is too deep')
  return Buffer.concat(
    Object.entries(fields).map(([name, value]) => Buffer.concat([short(name), field(value, depth)])),
  )
}

function field(value: unknown, depth: number): Buffer {
  if (value === null) return Buffer.from('V')
  if (typeof value === 'boolean') return Buffer.from([0x74, value ? 1 : 0])
  if (typeof value === 'string') return Buffer.concat([Buffer.from('S'), long(Buffer.from(value))])
  if (typeof value === 'number') return numberField(value)
  if (depth > DEEPEST) throw new NotInAmqp('it is too deep')
  if (Array.isArray(value)) {
    const items = value.map((item) => field(item, depth + 1))
    return Buffer.concat([Buffer.from('A'), long(Buffer.concat(items))])
  }
  const table = tableOf(value as Record<string, unknown>, depth + 1)
  return Buffer.concat([Buffer.from('F'), long(table)])
}

function numberField(value: number): Buffer {
  if (!Number.isFinite(value)) throw new NotInAmqp(`RabbitMQ takes no ${value}`)
  const bytes = Buffer.alloc(9)
  if (!Number.isSafeInteger(value)) {
    bytes.write('d')
    bytes.writeDoubleBE(value, 1)
    return bytes
  }
  bytes.write('l')
  bytes.writeBigInt64BE(BigInt(value), 1)
  return bytes
}

/** Publishes messages to a queue of the server at `url`, which is made where it is missing; resolves once they are confirmed. */
export async function publishTo(url: string, queue: string, messages: readonly AmqpMessage[]): Promise<void> {
  const { hostname, port, pathname } = new URL(url)
  const socket = createConnection(Number(port), hostname)
  const connection = new Connection(socket)
  try {
    await within(
      60,
      `${messages.length} messages in queue ${queue}`,
      connection.publish(pathname, queue, messages),
    )
  } finally {
    socket.destroy()
  }
}

/** Methods by class and number. */
const START = '10.10'
const TUNE = '10.30'
const OPENED = '10.41'
const CHANNEL = '20.11'
const CLOSED_CHANNEL = '20.40'
const CLOSED = '10.50'
const DECLARED = '50.11'
const SELECTED = '85.11'
const ACK = '60.80'
const NACK = '60.120'

class Connection {
  readonly #socket: Socket
  readonly #frames: AsyncGenerator<{ method: string; payload: Buffer }>
  #largest = 131_072

  constructor(socket: Socket) {
    this.#socket = socket
    this.#frames = methodsOf(socket)
  }

  async publish(path: string, queue: string, messages: readonly AmqpMessage[]): Promise<void> {
    await once(this.#socket, 'connect')
    this.#socket.setNoDelay(true)
    this.#socket.write('AMQP\x00\x00\x09\x01')
    await this.#next(START)
    this.#method(
      0,
      10,
      11,
      long(Buffer.alloc(0)),
      short('PLAIN'),
      long(Buffer.from('\0guest\0guest')),
      short('en_US'),
    )
    const tuning = await this.#next(TUNE)
    this.#largest = tuning.readUInt32BE(6)
    this.#method(0, 10, 31, tuning.subarray(4, 10), Buffer.alloc(2))
    this.#method(0, 10, 40, short(decodeURIComponent(path.slice(1))), short(''), Buffer.alloc(1))
    await this.#next(OPENED)
    this.#method(1, 20, 10, short(''))
    await this.#next(CHANNEL)
    this.#method(1, 50, 10, Buffer.alloc(2), short(queue), Buffer.from([2]), long(Buffer.alloc(0)))
    await this.#next(DECLARED)
    this.#method(1, 85, 10, Buffer.alloc(1))
    await this.#next(SELECTED)
    const confirmed = this.#confirmed(messages.length)
    confirmed.catch(() => {})
    for (const message of messages) {
      this.#send(queue, message)
      if (this.#socket.writableNeedDrain) await Promise.race([once(this.#socket, 'drain'), confirmed])
    }
    await confirmed
  }

  async #confirmed(count: number): Promise<void> {
    for (let left = count, last = 0n; left > 0;) {
      const payload = await this.#next(ACK)
      const tag = payload.readBigUInt64BE(4)
      left -= payload[12] === 1 ? Number(tag - last) : 1
      if (payload[12] === 1) last = tag
      else if (tag === last + 1n) last = tag
    }
  }

  #send(queue: string, message: AmqpMessage): void {
    this.#method(1, 60, 40, Buffer.alloc(2), short(''), short(queue), Buffer.alloc(1))
    const parts: Buffer[] = []
    let flags = 0
    const add = (bit: number, bytes: Buffer | undefined): void => {
      if (bytes === undefined) return
      flags |= 1 << bit
      parts.push(bytes)
    }
    const text = (value: string | Buffer | undefined): Buffer | undefined =>
      value === undefined ? undefined : short(value)
    const octet = (value: number | undefined): Buffer | undefined =>
      value === undefined ? undefined : Buffer.from([value])
    add(15, text(message.contentType))
    add(14, text(message.contentEncoding))
    add(13, message.headers === undefined ? undefined : long(message.headers))
    add(12, octet(message.deliveryMode))
    add(11, octet(message.priority))
    add(10, text(message.correlationId))
    add(9, text(message.replyTo))
    add(8, text(message.expiration))
    const head = Buffer.alloc(14)
    head.writeUInt16BE(60)
    head.writeBigUInt64BE(BigInt(message.body.length), 4)
    head.writeUInt16BE(flags, 12)
    this.#frame(2, 1, Buffer.concat([head, ...parts]))
    const most = this.#largest - 8
    for (let at = 0; at < message.body.length; at += most) {
      this.#frame(3, 1, message.body.subarray(at, at + most))
    }
  }

  #method(channel: number, kind: number, method: number, ...parts: Buffer[]): void {
    const head = Buffer.alloc(4)
    head.writeUInt16BE(kind)
    head.writeUInt16BE(method, 2)
    this.#frame(1, channel, Buffer.concat([head, ...parts]))
  }

  #frame(type: number, channel: number, payload: Buffer): void {
    const head = Buffer.alloc(7)
    head.writeUInt8(type)
    head.writeUInt16BE(channel, 1)
    head.writeUInt32BE(payload.length, 3)
    this.#socket.cork()
    this.#socket.write(head)
    this.#socket.write(payload)
    this.#socket.write(END)
    this.#socket.uncork()
  }

  /** The payload of the next method, which must be this one. */
  async #next(wanted: string): Promise<Buffer> {
    const { value, done } = await this.#frames.next()
    if (done === true) throw new Error(`RabbitMQ closed the connection before ${wanted}`)
    const { method, payload } = value
    if (method === wanted) return payload
    const said = [CLOSED, CLOSED_CHANNEL, NACK].includes(method) ? payload.toString('latin1') : ''
    throw new Error(`RabbitMQ answered ${method} instead of ${wanted}: ${said}`)
  }
}

const END = Buffer.from([0xce])

/** The methods that come, without heartbeats. */
async function* methodsOf(socket: Socket): AsyncGenerator<{ method: string; payload: Buffer }> {
  let rest: Buffer = Buffer.alloc(0)
  for await (const chunk of socket) {
    rest = Buffer.concat([rest, chunk as Buffer])
    while (rest.length >= 7 && rest.length >= 8 + rest.readUInt32BE(3)) {
      const size = rest.readUInt32BE(3)
      const payload = rest.subarray(7, 7 + size)
      const isMethod = rest[0] === 1
      rest = rest.subarray(8 + size)
      if (isMethod) yield { method: `${payload.readUInt16BE(0)}.${payload.readUInt16BE(2)}`, payload }
    }
  }
}

function short(text: string | Buffer): Buffer {
  const bytes = Buffer.from(text as string)
  if (bytes.length > 255) throw new NotInAmqp('it is longer than 255 bytes')
  return Buffer.concat([Buffer.from([bytes.length]), bytes])
}

function long(bytes: Buffer): Buffer {
  const size = Buffer.alloc(4)
  size.writeUInt32BE(bytes.length)
  return Buffer.concat([size, bytes])
}
