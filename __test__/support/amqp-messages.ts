/** What becomes of kombu's virtual envelopes on a broker that has a form of its own for messages. */

import { type AmqpMessage, type FoundMessage, NotInAmqp, tableOf } from './amqp.ts'
import type { WholeGivenUp } from './reliability/dead-list.ts'

/** The largest table that fits into one frame beside the other properties. */
const LARGEST = 100_000

/** A message as RabbitMQ has it, and as the dead list shows it. */
export interface TwoForms {
  readonly message: AmqpMessage
  /** JSON, with sorted names. */
  readonly kept: Buffer
}

/**
 * The message that an envelope of kombu's virtual transports stands for, as pyamqp would send it. What is no envelope, or has no
 * form in AMQP, is a body that says it is JSON.
 */
export function asAmqp(raw: Buffer): TwoForms {
  let message: AmqpMessage & { table?: Record<string, unknown> }
  try {
    message = unwrapped(raw)
  } catch (error) {
    if (!(error instanceof NotInAmqp || error instanceof SyntaxError || error instanceof TypeError))
      throw error
    message = { body: raw, contentType: 'application/json', contentEncoding: 'utf-8' }
  }
  return { message, kept: keptForm({ table: {}, ...message }) }
}

/** A message as the dead list shows it: JSON, with sorted names. */
export function keptForm({ table, body, ...rest }: FoundMessage): Buffer {
  const kept = {
    ...rest,
    body: body.toString('base64'),
    headers: sorted(table),
    priority: rest.priority ?? 0,
  }
  return Buffer.from(envelopeOf(kept))
}

/** The header in which RabbitMQ's dead list has what is known of a letter. */
const DEAD = 'x-celeriac-dead'

/** A letter as it lies in RabbitMQ's dead list. */
export function letterIn({ table, ...message }: FoundMessage): WholeGivenUp {
  const { [DEAD]: known, ...headers } = table as Record<string, Record<string, unknown>>
  const { id, queue, reason, delivery_mode: deliveryMode } = known as Record<string, string>
  return {
    id: id ?? '',
    queue: queue ?? '',
    reason: reason ?? '',
    raw: keptForm({ ...message, table: headers, deliveryMode: deliveryMode as number | undefined }),
  }
}

type Members = Record<string, unknown>

function unwrapped(raw: Buffer): AmqpMessage & { table: Record<string, unknown> } {
  // Before a parser counts a hundred million brackets.
  if (raw[0] !== 0x7b) throw new NotInAmqp('it is no envelope')
  const envelope = JSON.parse(
    new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(raw),
  ) as Members
  const properties = envelope['properties'] as Members
  const { body: text, headers: given } = envelope
  if (typeof text !== 'string' || !isObject(properties)) throw new NotInAmqp('it is no envelope')
  if (given !== null && given !== undefined && !isObject(given)) throw new NotInAmqp('no headers')
  const { body_encoding: encoding = 'utf-8' } = properties
  if (encoding !== 'base64' && encoding !== 'utf-8') throw new NotInAmqp('its body is of an unknown kind')
  const isBase64 = encoding === 'base64'
  const body = Buffer.from(text, isBase64 ? 'base64' : 'utf-8')
  if (isBase64 && body.toString('base64') !== text) throw new NotInAmqp('it is no base64')
  const table = given ?? {}
  const headers = tableOf(table)
  if (headers.length > LARGEST) throw new NotInAmqp('it does not fit into a frame')
  return {
    body,
    table,
    headers: given === null || given === undefined ? undefined : headers,
    contentType: wordOf(envelope['content-type']),
    contentEncoding: wordOf(envelope['content-encoding']),
    deliveryMode: octetOf(properties['delivery_mode'], [1, 2]),
    priority: octetOf(properties['priority']),
    correlationId: wordOf(properties['correlation_id']),
    replyTo: wordOf(properties['reply_to']),
  }
}

/** The envelope that celeriac makes of a message of RabbitMQ, but for the place that it came from. */
function envelopeOf(message: Members): string {
  const { body, headers, contentType = '', contentEncoding = '', ...rest } = message
  return JSON.stringify({
    body,
    'content-encoding': contentEncoding,
    'content-type': contentType,
    headers,
    properties: {
      correlation_id: rest['correlationId'],
      reply_to: rest['replyTo'],
      delivery_mode: rest['deliveryMode'],
      priority: rest['priority'],
      body_encoding: 'base64',
    },
  })
}

function isObject(value: unknown): value is Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** With sorted names, and as UTF-8 has it. */
function sorted(value: unknown): unknown {
  if (typeof value === 'string') return Buffer.from(value).toString()
  if (Array.isArray(value)) return value.map(sorted)
  if (!isObject(value)) return value
  return Object.fromEntries(
    Object.keys(value)
      .toSorted()
      .map((name) => [Buffer.from(name).toString(), sorted(value[name])]),
  )
}

/** A short text; none where there is none. */
function wordOf(value: unknown): string | undefined {
  if (value === null || value === undefined) return undefined
  if (typeof value !== 'string' || Buffer.byteLength(value) > 255) throw new NotInAmqp('it is no short text')
  return Buffer.from(value).toString()
}

function octetOf(value: unknown, valid?: readonly number[]): number | undefined {
  if (value === null || value === undefined) return undefined
  const isOctet = typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 255
  if (!isOctet || valid?.includes(value) === false) throw new NotInAmqp('RabbitMQ refuses it')
  return value
}
