/** Messages as they lie in a queue, for those that no producer would send. */

import { randomUUID } from 'node:crypto'
import { bytesOf, Members, protocol2, Raw, type Tree } from './message-trees.ts'

export interface RawTask {
  task: string
  args?: unknown[]
  /** Default: a new one. */
  id?: string
  /** Default `node`. */
  queue?: string
  /** ISO 8601, or null. */
  eta?: string | null
  /** On top of the true ones. */
  headers?: Record<string, unknown>
  properties?: Record<string, unknown>
  contentType?: string
}

/** The JSON text of a message as kombu writes it. */
export function rawTask({ id = randomUUID(), queue = 'node', args = [], ...given }: RawTask): string {
  const message = protocol2({
    task: given.task,
    id,
    queue,
    args: args.map(treeOf),
    fields: {
      eta: given.eta ?? null,
      argsrepr: '',
      origin: 'tests',
      ...Object.fromEntries(
        Object.entries(given.headers ?? {}).map(([name, value]) => [name, treeOf(value)]),
      ),
    },
  })
  if (given.contentType !== undefined) message.envelope.set('content-type', given.contentType)
  const properties = message.envelope.get('properties')
  if (properties instanceof Members) {
    for (const [name, value] of Object.entries(given.properties ?? {})) properties.set(name, treeOf(value))
  }
  return bytesOf(message).toString()
}

function treeOf(value: unknown): Tree {
  return new Raw(JSON.stringify(value))
}
