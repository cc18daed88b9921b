import type { PreparedMessage } from '../prepare.ts'

/** What becomes of a message: see `NativeWorker.settle`. */
export const outcomes = {
  /** It is done with. */
  acknowledge: 0,
  /** It goes to the dead list. */
  reject: 1,
  /** It goes back to its queue, marked as redelivered. */
  requeue: 2,
  /** It goes back to its queue as it came, because nothing was begun. */
  handBack: 3,
  /** It goes to the dead list, because its worker was lost too often while it ran. */
  poison: 4,
} as const

/** The end of one delivery. */
export interface Settlement {
  readonly tag: number
  readonly outcome: (typeof outcomes)[keyof typeof outcomes]
  /** What to store; null stores nothing. */
  readonly state: string | null
  /** JSON in Python's sense: the result, or Celery's form of an exception. */
  readonly result?: string
  readonly traceback?: string | null
  /** JSON array of the results of tasks that this one sent. */
  readonly children?: string
  /** Messages that go out before the result is stored. */
  readonly publish?: readonly PreparedMessage[]
}

/** A settlement as the core reads it: a JSON array whose values are JSON in Python's sense. */
export function settlementText(settlement: Settlement): string {
  const { tag, outcome, state, result = 'null', traceback, children = '[]', publish } = settlement
  const states = state === null ? 'null' : `"${state}"`
  const stack = traceback === undefined || traceback === null ? 'null' : JSON.stringify(traceback)
  const messages =
    publish === undefined || publish.length === 0 ? 'null' : `[${publish.map(messageText).join(',')}]`
  return `[${tag},${outcome},${states},${result},${stack},${children},${messages}]`
}

function messageText({ route, taskId, args, kwargs, options }: PreparedMessage): string {
  return `[${route},${JSON.stringify(taskId)},${args},${kwargs},${options ?? 'null'}]`
}

/** Gathers the settlements of one turn of the event loop and hands them over in one call. */
export class Settler {
  readonly #handOver: (batch: string) => void
  #batch = ''
  #scheduled = false

  /** `handOver` takes lines, each a JSON array: one settlement. */
  constructor(handOver: (batch: string) => void) {
    this.#handOver = handOver
  }

  /** Settles a delivery, within this turn of the event loop. */
  settle(settlement: Settlement): void {
    this.#add(settlementText(settlement))
  }

  /** Settles a delivery whose task has succeeded with this result, and sent nothing. */
  succeed(tag: number, result: string): void {
    this.#add(`[${tag},${outcomes.acknowledge},"SUCCESS",${result},null,[],null]`)
  }

  #add(text: string): void {
    this.#batch += text
    this.#batch += '\n'
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(this.#flushScheduled)
  }

  /** Hands over what was gathered now. */
  flush(): void {
    if (this.#batch === '') return
    const batch = this.#batch
    this.#batch = ''
    this.#handOver(batch)
  }

  readonly #flushScheduled = (): void => {
    this.#scheduled = false
    this.flush()
  }
}
