/** Messages as they lie in a queue, for those that no producer would send. */

import { randomUUID } from 'node:crypto'

export interface RawTask {
  task: string
  args?: unknown[]
  /** Default: a new one. */
  id?: string
  /** Default `node`. */
  queue?: string
  /** ISO 8601, or null. */
  eta?: string | null
  /** Instead of the true body. */
  body?: string
  /** On top of the true ones. */
  headers?: Record<string, unknown>
  properties?: Record<string, unknown>
  contentType?: string
}

/** The JSON text of a message as kombu writes it. */
export function rawTask({ id = randomUUID(), queue = 'node', args = [], ...given }: RawTask): string {
  const body = JSON.stringify([args, {}, { callbacks: null, errbacks: null, chain: null, chord: null }])
  return JSON.stringify({
    body: given.body ?? Buffer.from(body).toString('base64'),
    'content-encoding': 'utf-8',
    'content-type': given.contentType ?? 'application/json',
    headers: {
      lang: 'py',
      task: given.task,
      id,
      root_id: id,
      parent_id: null,
      group: null,
      eta: given.eta ?? null,
      expires: null,
      retries: 0,
      timelimit: [null, null],
      argsrepr: '',
      kwargsrepr: '{}',
      origin: 'tests',
      ...given.headers,
    },
    properties: {
      correlation_id: id,
      reply_to: id,
      delivery_mode: 2,
      delivery_info: { exchange: '', routing_key: queue },
      priority: 0,
      body_encoding: 'base64',
      delivery_tag: randomUUID(),
      ...given.properties,
    },
  })
}
