import { pythonRepr } from './native.ts'

/** What a message in the dead list says, as far as it can be read. */
export interface DeadMessage {
  /** Name of the task; null when the message names none. */
  readonly task: string | null
  /** Id of the task; null when the message has none. */
  readonly id: string | null
  /**
   * The positional arguments as Python prints them: the header `argsrepr` where the sender gave one, else made of the
   * body, abbreviated as in Celery's log. Null when the body cannot be read either.
   */
  readonly argsrepr: string | null
  /** The keyword arguments, as {@link argsrepr} has the positional ones. */
  readonly kwargsrepr: string | null
  /** Such as `application/json`; null when the message names none. */
  readonly contentType: string | null
  /** Such as `utf-8`; null when the message names none. */
  readonly contentEncoding: string | null
  /** Headers under the names of the wire. */
  readonly headers: Readonly<Record<string, unknown>>
  /** Properties under the names of the wire, such as `correlation_id`. */
  readonly properties: Readonly<Record<string, unknown>>
}

type JsonObject = Record<string, unknown>

/** As much of the arguments as is shown: ten times what Celery sends in `argsrepr`. */
const MAX_REPR = 10_240

/** The deepest nesting that the core reads (`MAX_DEPTH` of celeriac-protocol). */
const MAX_DEPTH = 200

/** Reads the wrapping that kombu's virtual transports put around a message. Null for what is no such text. */
export function readDeadMessage(raw: Buffer): DeadMessage | null {
  let envelope: unknown
  try {
    const whole = new TextDecoder('utf-8', { fatal: true }).decode(raw)
    if (isNestedTooDeeply(whole)) return null
    envelope = JSON.parse(whole)
  } catch {
    return null
  }
  if (!isObject(envelope) || typeof envelope['body'] !== 'string') return null
  const headers = isObject(envelope['headers']) ? envelope['headers'] : {}
  const properties = isObject(envelope['properties']) ? envelope['properties'] : {}
  const encoding = text(properties['body_encoding'])?.toLowerCase()
  const body = encoding === 'base64' ? Buffer.from(envelope['body'], 'base64').toString() : envelope['body']
  const said = readBody(body)
  return {
    task: text(headers['task']) ?? said.task,
    id: text(headers['id']) ?? said.id,
    argsrepr: text(headers['argsrepr']) ?? repr(said.args, '[', true),
    kwargsrepr: text(headers['kwargsrepr']) ?? repr(said.kwargs, '{', false),
    contentType: text(envelope['content-type']),
    contentEncoding: text(envelope['content-encoding']),
    headers,
    properties,
  }
}

interface Body {
  task: string | null
  id: string | null
  /** JSON texts. */
  args: string | undefined
  kwargs: string | undefined
}

/** The body of protocol 2, `[args, kwargs, embed]`, or of protocol 1, an object that has all of the message. */
function readBody(body: string): Body {
  const all = parts(body)
  if (body.trimStart().startsWith('[')) return { task: null, id: null, args: all[0], kwargs: all[1] }
  const members = new Map<unknown, string>()
  for (let index = 0; index + 1 < all.length; index += 2)
    members.set(json(all[index] as string), all[index + 1] as string)
  return {
    task: text(json(members.get('task') ?? 'null')),
    id: text(json(members.get('id') ?? 'null')),
    args: members.get('args'),
    kwargs: members.get('kwargs'),
  }
}

/**
 * The JSON texts of which an array or object consists; of an object, names and values in turn. They stay texts because
 * Python's JSON has what JavaScript's has not: NaN, and integers of any size.
 */
function parts(container: string): string[] {
  const found: string[] = []
  let depth = 0
  let start = 0
  for (let index = 0; index < container.length; index++) {
    const character = container[index]
    if (character === '"') {
      index = endOfString(container, index)
    } else if (character === '[' || character === '{') {
      depth += 1
      if (depth === 1) start = index + 1
    } else if (character === ']' || character === '}') {
      depth -= 1
      if (depth === 0) found.push(container.slice(start, index).trim())
    } else if (depth === 1 && (character === ',' || character === ':')) {
      found.push(container.slice(start, index).trim())
      start = index + 1
    }
  }
  return found
}

/** Where the string that begins at `start` has its closing quote; the end of the text when it has none. */
function endOfString(container: string, start: number): number {
  for (let end = start; (end = container.indexOf('"', end + 1)) >= 0;) {
    let before = end
    while (container[before - 1] === '\\') before -= 1
    if ((end - before) % 2 === 0) return end
  }
  return container.length
}

/** Before it is parsed: a hundred megabytes of `[` take the parser ten seconds. */
function isNestedTooDeeply(whole: string): boolean {
  let depth = 0
  for (const found = /["[{\]}]/g; found.test(whole);) {
    const character = whole[found.lastIndex - 1]
    if (character === '"') found.lastIndex = endOfString(whole, found.lastIndex - 1) + 1
    else if (character === '[' || character === '{') depth += 1
    else depth -= 1
    if (depth > MAX_DEPTH) return true
  }
  return false
}

/** What is no array or object is no arguments. */
function repr(jsonText: string | undefined, opening: string, tuple: boolean): string | null {
  if (jsonText === undefined || !jsonText.startsWith(opening)) return null
  try {
    return pythonRepr(jsonText, MAX_REPR, tuple)
  } catch {
    return null
  }
}

function json(jsonText: string): unknown {
  try {
    return JSON.parse(jsonText)
  } catch {
    return undefined
  }
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Celery takes an empty text for none. */
function text(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null
}
