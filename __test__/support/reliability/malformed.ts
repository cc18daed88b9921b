/** Messages that are no task, by what is wrong with them, and why a worker of ours says that it keeps them. */

import { bytesOf, type MessageOptions, object, protocol2, Raw, type Tree } from './message-trees.ts'

/** A message that nobody can run. */
export interface BadMessage {
  readonly what: string
  readonly raw: Buffer
  /** Its reason in the dead list. */
  readonly reason: 'malformed' | 'content-disallowed' | 'unknown-task'
}

/** How deep what nests too deeply nests. */
const DEPTH = 100_000

/** One of each kind, for a queue of that name. */
export function badMessages(queue: string): BadMessage[] {
  const nested = '['.repeat(DEPTH) + ']'.repeat(DEPTH)
  const options = (id: string): MessageOptions => ({ task: 'hostile.good', id: `bad-${id}`, queue })
  const tree = (id: string, fields: MessageOptions['fields'] = {}): ReturnType<typeof protocol2> =>
    protocol2({ ...options(id), fields })
  const withMember = (id: string, name: string, value: Tree): Buffer => {
    const message = tree(id)
    message.envelope.set(name, value)
    return bytesOf(message)
  }
  const whole = bytesOf(tree('half'))
  const all: Record<string, Buffer | string> = {
    'no JSON': 'not json',
    'an empty array': '[]',
    'an empty object': '{}',
    nothing: '',
    'a number': '17',
    'half of a message': whole.subarray(0, whole.length / 2),
    'too deep': nested,
    'no UTF-8': Buffer.concat([whole.subarray(0, 12), Buffer.from([0xff, 0xfe]), whole.subarray(12)]),
    'NUL bytes': Buffer.alloc(16),
    'a NUL byte after it': Buffer.concat([whole, Buffer.alloc(1)]),
    'a body that is no base64': whole.toString().replace('"body": "', '"body": "%%% '),
    'a body that is no JSON': bytesOf(tree('no-json'), 'not json'),
    'a body that is no UTF-8': bytesOf(tree('no-utf-8'), Buffer.from([0x5b, 0x22, 0xff, 0x22, 0x5d])),
    'arguments that nest too deeply': bytesOf(protocol2({ ...options('deep'), args: [new Raw(nested)] })),
    'headers that nest too deeply': bytesOf(tree('deep-headers', { more: new Raw(nested) })),
    'headers that are no object': withMember('no-headers', 'headers', ['task']),
    'no headers': withMember('null-headers', 'headers', null),
    'an encoding that nobody knows': withMember('rot13', 'properties', object({ body_encoding: 'rot13' })),
    'arguments that are no list': bytesOf(tree('no-list'), '[{"x": 1}, {}, {}]'),
    'an ETA that is no time': bytesOf(tree('no-eta', { eta: 'tomorrow' })),
    'a number that is too large': bytesOf(tree('large', { retries: new Raw('9'.repeat(400)) })),
    'an id that is a number': bytesOf(tree('large', { id: new Raw('12345678901234567890') })),
  }
  return [
    ...Object.entries(all).map(([what, raw]) => ({
      what,
      raw: Buffer.from(raw),
      reason: 'malformed' as const,
    })),
    {
      what: 'pickle',
      raw: withMember('pickle', 'content-type', 'application/x-python-serialize'),
      reason: 'content-disallowed',
    },
    {
      what: 'an unknown task',
      raw: bytesOf(protocol2({ ...options('unknown'), task: 'hostile.unknown' })),
      reason: 'unknown-task',
    },
  ]
}

/** The bytes of a good task. */
export function goodMessage(id: string, queue: string): Buffer {
  return bytesOf(protocol2({ task: 'hostile.good', id, queue, args: [new Raw('9'.repeat(400)), 'é\u0000'] }))
}
