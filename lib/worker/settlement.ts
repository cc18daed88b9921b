import type { PreparedMessage } from '../prepare.ts'

/** What becomes of a delivery's message. The numbers are those of `NativeWorker.settle`. */
export const Disposition = {
  ack: 0,
  /** Without requeue: to the dead list. */
  reject: 1,
  /** Back to its queue, marked as handed out before. */
  requeue: 2,
} as const

export type Disposition = (typeof Disposition)[keyof typeof Disposition]

/** How a delivery ended. */
export interface Settlement {
  readonly tag: number
  readonly disposition: Disposition
  /** The state to store; null stores nothing. */
  readonly state: string | null
  /** JSON in Python's sense. */
  readonly result: string
  readonly traceback: string | null
  /** Results of the tasks that this one sent, as tuples. */
  readonly children: readonly unknown[]
  /** What is sent before the result is stored: a retry, callbacks. */
  readonly publish: readonly PreparedMessage[]
}

/** The text of one settlement. */
export function encodeSettlement(settlement: Settlement): string {
  const { tag, disposition, state, result, traceback, children, publish } = settlement
  const stateText = state === null ? 'null' : JSON.stringify(state)
  const tracebackText = traceback === null ? 'null' : JSON.stringify(traceback)
  const childrenText = children.length === 0 ? '[]' : JSON.stringify(children)
  const publishText = publish.length === 0 ? 'null' : `[${publish.map(encodeMessage).join(',')}]`
  return `[${tag},${disposition},${stateText},${result},${tracebackText},${childrenText},${publishText}]`
}

function encodeMessage(message: PreparedMessage): string {
  const { route, taskId, args, kwargs, options } = message
  return `[${route},${JSON.stringify(taskId)},${args},${kwargs},${options ?? 'null'}]`
}

/** Gathers the settlements of one turn of the event loop, which cross to the core as one text. */
export class SettlementBatch {
  readonly #send: (batch: string) => void
  #parts: string[] = []

  constructor(send: (batch: string) => void) {
    this.#send = send
  }

  add(settlement: Settlement): void {
    this.#parts.push(encodeSettlement(settlement))
    if (this.#parts.length === 1) setImmediate(() => this.flush())
  }

  /** Sends what was gathered now. */
  flush(): void {
    if (this.#parts.length === 0) return
    const batch = `[${this.#parts.join(',')}]`
    this.#parts = []
    this.#send(batch)
  }
}
