/** Task messages read without the code that is tested. */

/** What a message says about its task. */
export interface ReadTask {
  readonly id: string
  readonly eta: string | undefined
}

/** Reads a message that a worker took for a task; undefined where it cannot be read. */
export function readTask(raw: Buffer): ReadTask | undefined {
  try {
    const envelope = parse(raw.toString())
    const properties = isObject(envelope['properties']) ? envelope['properties'] : {}
    const headers = isObject(envelope['headers']) ? envelope['headers'] : {}
    const encoding = properties['body_encoding'] ?? ''
    const isBase64 = typeof encoding === 'string' && encoding.toLowerCase() === 'base64'
    const text = String(envelope['body'])
    const body = parse(isBase64 ? Buffer.from(text, 'base64').toString() : text)
    // A field of the headers counts more than one of the body.
    const { id, eta } = { id: body['id'], eta: body['eta'], ...headers }
    if (typeof id !== 'string') return undefined
    return { id: wellFormed(id), eta: typeof eta === 'string' ? eta : undefined }
  } catch {
    return undefined
  }
}

/** With U+FFFD for half of a surrogate pair, as UTF-8 has it. */
export function wellFormed(text: string): string {
  return Buffer.from(text).toString()
}

/** Python's JSON: numbers that `JSON.parse` does not know become null. */
function parse(text: string): Record<string, unknown> {
  const known = text.replaceAll(/"(?:\\.|[^"\\])*"|-?Infinity|NaN/gs, (token) =>
    token.startsWith('"') ? token : 'null',
  )
  return JSON.parse(known) as Record<string, unknown>
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
