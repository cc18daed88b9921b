/** Celery's messages as plain trees, with room for what no JSON writer would write. */

import type { Random } from '../random.ts'

/** Text that goes into the JSON as it is: numbers out of range, lone surrogates, no JSON at all. */
export class Raw {
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}

/** An object whose keys may repeat and keep their order. */
export class Members {
  readonly pairs: [key: string, value: Tree][]

  constructor(pairs: readonly (readonly [string, Tree])[]) {
    this.pairs = pairs.map(([key, value]) => [key, value])
  }

  /** The last value of a key. */
  get(key: string): Tree | undefined {
    return this.pairs.findLast(([name]) => name === key)?.[1]
  }

  /** In the place of the first value of that key, else at the end. */
  set(key: string, value: Tree): this {
    const pair = this.pairs.find(([name]) => name === key)
    if (pair === undefined) this.pairs.push([key, value])
    else pair[1] = value
    return this
  }
}

/** JSON, and what is not quite JSON. */
export type Tree = null | boolean | number | string | Raw | Members | Tree[]

/** An object from its members. */
export function object(members: Readonly<Record<string, Tree>>): Members {
  return new Members(Object.entries(members))
}

/** The tree's text as Python's `json.dumps` writes it. */
export function textOf(tree: Tree): string {
  if (tree instanceof Raw) return tree.text
  if (Array.isArray(tree)) return `[${tree.map(textOf).join(', ')}]`
  if (tree instanceof Members) {
    return `{${tree.pairs.map(([key, value]) => `${JSON.stringify(key)}: ${textOf(value)}`).join(', ')}}`
  }
  return JSON.stringify(tree)
}

/** A message before it is written: its body is a tree of its own. */
export interface MessageTree {
  /** What the body says; written with `bodyEncoding` into the envelope's `body`. */
  readonly body: Tree
  /** Everything but the body. */
  readonly envelope: Members
}

/** How the body comes into the envelope. */
export type BodyEncoding = 'base64' | 'utf-8'

/** The message's bytes, with another text for its body where one is given. */
export function bytesOf({ body, envelope }: MessageTree, bodyText: Buffer | string = textOf(body)): Buffer {
  const bytes = Buffer.from(bodyText)
  const properties = envelope.get('properties')
  const isBase64 = properties instanceof Members && properties.get('body_encoding') === 'base64'
  const text = isBase64 ? bytes.toString('base64') : bytes.toString()
  return Buffer.from(textOf(new Members([['body', text], ...envelope.pairs])))
}

/** What a message is to say. */
export interface MessageOptions {
  readonly task: string
  readonly id: string
  readonly queue: string
  readonly args?: Tree[]
  readonly kwargs?: Members
  readonly encoding?: BodyEncoding
  /** Headers on top of the usual ones; fields of the body in protocol 1. */
  readonly fields?: Readonly<Record<string, Tree>>
  /** The third part of the body of protocol 2. */
  readonly embed?: Readonly<Record<string, Tree>>
}

/** A message of protocol 2, as Celery 5 sends it. */
export function protocol2(options: MessageOptions): MessageTree {
  const { task, id, args = [], kwargs = object({}), fields = {}, embed = {} } = options
  const headers = object({
    lang: 'py',
    task,
    id,
    shadow: null,
    eta: null,
    expires: null,
    group: null,
    group_index: null,
    retries: 0,
    timelimit: [null, null],
    root_id: id,
    parent_id: null,
    argsrepr: '()',
    kwargsrepr: '{}',
    origin: 'gen1@localhost',
    ignore_result: false,
    replaced_task_nesting: 0,
    stamped_headers: null,
    stamps: object({}),
    ...fields,
  })
  const body = [args, kwargs, object({ callbacks: null, errbacks: null, chain: null, chord: null, ...embed })]
  return { body, envelope: envelopeOf(options, headers) }
}

/** A message of protocol 1, as Celery 3 and other clients send it. */
export function protocol1(options: MessageOptions): MessageTree {
  const { task, id, args = [], kwargs = object({}), fields = {} } = options
  const body = object({
    task,
    id,
    args,
    kwargs,
    group: null,
    group_index: null,
    retries: 0,
    eta: null,
    expires: null,
    utc: true,
    callbacks: null,
    errbacks: null,
    timelimit: [null, null],
    taskset: null,
    chord: null,
    ...fields,
  })
  return { body, envelope: envelopeOf(options, object({})) }
}

function envelopeOf({ id, queue, encoding = 'base64' }: MessageOptions, headers: Members): Members {
  return object({
    'content-encoding': 'utf-8',
    'content-type': 'application/json',
    headers,
    properties: object({
      correlation_id: id,
      reply_to: '6a1fb4bd-1fa2-3d2c-8a86-5c3a1a9d2c11',
      delivery_mode: 2,
      delivery_info: object({ exchange: '', routing_key: queue }),
      priority: 0,
      body_encoding: encoding,
      delivery_tag: `${id}-tag`,
    }),
  })
}

/** An id in the form of a UUID. */
export function randomId(random: Random): string {
  const digits = Array.from({ length: 32 }, () => random.between(0, 15).toString(16)).join('')
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
