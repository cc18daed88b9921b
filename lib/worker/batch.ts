import type { Delivery } from '../request.ts'

/** What a batch holds: see `NativeWorker.next`. */
export type Item =
  | {
      readonly kind: 'task'
      readonly delivery: Delivery
      /** Where {@link Gate} looks whether it may begin. */
      readonly slot: number
      /** Whether it was handed out before, so that its begin is counted. */
      readonly isCounted: boolean
    }
  | { readonly kind: 'revoke'; readonly ids: readonly string[]; readonly terminates: boolean }
  | { readonly kind: 'shutdown' }

type TaskLine = [
  tag: number,
  name: string,
  id: string,
  args: unknown[],
  kwargs: Record<string, unknown>,
  flags: number,
  slot: number,
]
type NoticeLine = ['revoke', string[], boolean, string] | ['shutdown']

/** Flags of a task: see `NativeWorker.next`. */
const TAGGED = 1
const INVOLVED = 2
const COUNTED = 4

/** A request in a batch longer than this is read at once: its text would keep the whole batch in memory. */
const LONG_BATCH = 2 ** 18

/** Gives what a batch holds to `take`, one after the other, so that what one has needed is gone before the next comes. */
export function readBatch(batch: string, take: (item: Item) => void): void {
  const isLong = batch.length > LONG_BATCH
  let from = 0
  while (from < batch.length) {
    const end = batch.indexOf('\n', from)
    const line = JSON.parse(batch.slice(from, end)) as TaskLine | NoticeLine
    from = end + 1
    if (line[0] === 'revoke') take({ kind: 'revoke', ids: line[1], terminates: line[2] })
    else if (line[0] === 'shutdown') take({ kind: 'shutdown' })
    else {
      const [tag, name, id, args, kwargs, flags, slot] = line
      const requestEnd = batch.indexOf('\n', from)
      const text = batch.slice(from, requestEnd)
      from = requestEnd + 1
      const isTagged = (flags & TAGGED) !== 0
      const request = isTagged || isLong ? (JSON.parse(text) as Delivery[6]) : text
      const delivery: Delivery = [tag, name, id, args, kwargs, isTagged, request, (flags & INVOLVED) === 0]
      take({ kind: 'task', delivery, slot, isCounted: (flags & COUNTED) !== 0 })
    }
  }
}
