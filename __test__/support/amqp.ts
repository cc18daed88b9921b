/** AMQP 0-9-1 as far as it takes to put messages into a queue that no library would write, and to look at what lies in one. */

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
  await connected(url, `${messages.length} messages in queue ${queue}`, async (connection) => {
    await connection.declare(queue)
    await connection.publish(queue, messages)
  })
}

/** A message that lies in a queue, with its headers as they are read. */
export interface FoundMessage extends AmqpMessage {
  readonly table: Readonly<Record<string, unknown>>
}

/** Every message in a queue of the server at `url`; it takes a moment until they are back in their places. */
export async function messagesIn(url: string, queue: string): Promise<FoundMessage[]> {
  let found: FoundMessage[] = []
  await connected(url, `what lies in queue ${queue}`, async (connection) => {
    found = await connection.read(queue, await connection.declare(queue))
  })
  return found
}

async function connected(
  url: string,
  what: string,
  work: (connection: Connection) => Promise<void>,
): Promise<void> {
  const { hostname, port, pathname } = new URL(url)
  const socket = createConnection(Number(port), hostname)
  const connection = new Connection(socket)
  const all = async (): Promise<void> => {
    await connection.open(decodeURIComponent(pathname.slice(1)))
    await work(connection)
  }
  try {
    await within(90, what, all())
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
const CONSUMED = '60.21'
const DELIVERED = '60.60'
const ACK = '60.80'
const NACK = '60.120'

/** What comes: a method, or a content's header or a part of its body. */
interface Frame {
  readonly type: number
  readonly payload: Buffer
}

const METHOD = 1
const HEADER = 2
const BODY = 3

class Connection {
  readonly #socket: Socket
  readonly #frames: AsyncGenerator<Frame>
  #largest = 131_072

  constructor(socket: Socket) {
    this.#socket = socket
    this.#frames = framesOf(socket)
  }

  /** Opens a connection to a virtual host, and a channel on it. */
  async open(vhost: string): Promise<void> {
    await once(this.#socket, 'connect')
    this.#socket.setNoDelay(true)
    this.#socket.write('AMQP\x00\x00\x09\x01')
    await this.#next(START)
    const login = long(Buffer.from('\0guest\0guest'))
    this.#method(0, 10, 11, long(Buffer.alloc(0)), short('PLAIN'), login, short('en_US'))
    const tuning = await this.#next(TUNE)
    this.#largest = tuning.readUInt32BE(6)
    // Without heartbeats.
    this.#method(0, 10, 31, tuning.subarray(4, 10), Buffer.alloc(2))
    this.#method(0, 10, 40, short(vhost), short(''), Buffer.alloc(1))
    await this.#next(OPENED)
    this.#method(1, 20, 10, short(''))
    await this.#next(CHANNEL)
  }

  /** Makes a durable queue where there is none; how many messages are ready in it. */
  async declare(queue: string): Promise<number> {
    this.#method(1, 50, 10, Buffer.alloc(2), short(queue), Buffer.from([2]), long(Buffer.alloc(0)))
    const declared = await this.#next(DECLARED)
    return declared.readUInt32BE(5 + (declared[4] ?? 0))
  }

  async publish(queue: string, messages: readonly AmqpMessage[]): Promise<void> {
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

  /** The first messages of a queue, which go back with the connection. */
  async read(queue: string, count: number): Promise<FoundMessage[]> {
    this.#method(
      1,
      60,
      20,
      Buffer.alloc(2),
      short(queue),
      short('reader'),
      Buffer.alloc(1),
      long(Buffer.alloc(0)),
    )
    await this.#next(CONSUMED)
    const messages: FoundMessage[] = []
    while (messages.length < count) {
      await this.#next(DELIVERED)
      const header = (await this.#frame(HEADER)).payload
      const size = Number(header.readBigUInt64BE(4))
      const parts: Buffer[] = []
      for (let read = 0; read < size;) {
        const { payload } = await this.#frame(BODY)
        read += payload.length
        parts.push(payload)
      }
      messages.push({ ...propertiesIn(header), body: Buffer.concat(parts) })
    }
    return messages
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
    this.#write(HEADER, 1, Buffer.concat([head, ...parts]))
    const most = this.#largest - 8
    for (let at = 0; at < message.body.length; at += most) {
      this.#write(BODY, 1, message.body.subarray(at, at + most))
    }
  }

  #method(channel: number, kind: number, method: number, ...parts: Buffer[]): void {
    const head = Buffer.alloc(4)
    head.writeUInt16BE(kind)
    head.writeUInt16BE(method, 2)
    this.#write(METHOD, channel, Buffer.concat([head, ...parts]))
  }

  #write(type: number, channel: number, payload: Buffer): void {
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
    const { payload } = await this.#frame(METHOD)
    const method = `${payload.readUInt16BE(0)}.${payload.readUInt16BE(2)}`
    if (method === wanted) return payload
    const said = [CLOSED, CLOSED_CHANNEL, NACK].includes(method) ? payload.toString('latin1') : ''
    throw new Error(`RabbitMQ answered ${method} instead of ${wanted}: ${said}`)
  }

  /** The next frame, which must be of this type. */
  async #frame(type: number): Promise<Frame> {
    const { value, done } = await this.#frames.next()
    if (done === true) throw new Error('RabbitMQ closed the connection')
    if (value.type === type) return value
    throw new Error(`RabbitMQ sent a frame of type ${value.type} instead of ${type}`)
  }
}

const END = Buffer.from([0xce])

/** The frames that come, without heartbeats. */
async function* framesOf(socket: Socket): AsyncGenerator<Frame> {
  let chunks: Buffer[] = []
  let length = 0
  let wanted = 7
  for await (const chunk of socket) {
    chunks.push(chunk as Buffer)
    length += (chunk as Buffer).length
    if (length < wanted) continue
    let rest = Buffer.concat(chunks)
    for (;;) {
      wanted = rest.length < 7 ? 7 : 8 + rest.readUInt32BE(3)
      if (rest.length < wanted) break
      const frame = { type: rest[0] ?? 0, payload: rest.subarray(7, wanted - 1) }
      rest = rest.subarray(wanted)
      if (frame.type <= BODY) yield frame
    }
    chunks = [rest]
    length = rest.length
  }
}

/** What a header frame says. */
function propertiesIn(header: Buffer): Omit<FoundMessage, 'body'> {
  const reader = new Reader(header, 14)
  const has = (bit: number): boolean => (header.readUInt16BE(12) & (1 << bit)) !== 0
  const text = (bit: number): string | undefined => (has(bit) ? reader.short().toString() : undefined)
  const octet = (bit: number): number | undefined => (has(bit) ? reader.octet() : undefined)
  return {
    contentType: text(15),
    contentEncoding: text(14),
    table: has(13) ? reader.table() : {},
    deliveryMode: octet(12),
    priority: octet(11),
    correlationId: text(10),
    replyTo: text(9),
    expiration: text(8),
  }
}

class Reader {
  readonly #bytes: Buffer
  #at: number

  constructor(bytes: Buffer, at: number) {
    this.#bytes = bytes
    this.#at = at
  }

  octet(): number {
    return this.#take(1).readUInt8()
  }

  short(): Buffer {
    return this.#take(this.octet())
  }

  table(): Record<string, unknown> {
    const end = this.#take(4).readUInt32BE() + this.#at
    const fields: [string, unknown][] = []
    while (this.#at < end) fields.push([this.short().toString(), this.#value()])
    return Object.fromEntries(fields)
  }

  #value(): unknown {
    const type = this.#take(1).toString()
    if (type === 'V') return null
    if (type === 't') return this.octet() !== 0
    if (type === 'S') return this.#take(this.#take(4).readUInt32BE()).toString()
    if (type === 'F') return this.table()
    if (type === 'I') return this.#take(4).readInt32BE()
    if (type === 'l') return Number(this.#take(8).readBigInt64BE())
    if (type === 'T') return { timestamp: Number(this.#take(8).readBigUInt64BE()) }
    if (type === 'd') return this.#take(8).readDoubleBE()
    if (type !== 'A') throw new Error(`a field of type ${type}, which none of these tests sends`)
    const end = this.#take(4).readUInt32BE() + this.#at
    const items: unknown[] = []
    while (this.#at < end) items.push(this.#value())
    return items
  }

  #take(count: number): Buffer {
    this.#at += count
    return this.#bytes.subarray(this.#at - count, this.#at)
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
