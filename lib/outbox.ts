import type { Calls } from './native.ts'
import type { PreparedMessage } from './prepare.ts'

/** So many calls cross together; more of them bring nothing. */
const MOST_CALLS = 128

/** So many characters cross together, and no more than one call more. */
const MOST_CHARACTERS = 256 * 1024

const RESOLVED: Promise<void> = Promise.resolve()

/**
 * Gathers calls on their way to the core, because crossing costs more than the call. One that comes alone crosses at once; while
 * others are under way, those of one turn of the microtasks cross together.
 */
export class Outbox {
  readonly #calls: Calls
  readonly #publish: (first: number, calls: string) => void
  #text = ''
  #first = 0
  #count = 0

  /** `publish` takes the number of the first call, and the text of all (crates/celeriac-broker/src/calls.rs). */
  constructor(calls: Calls, publish: (first: number, calls: string) => void) {
    this.#calls = calls
    this.#publish = publish
  }

  /** Sends a message; resolves with `value` when the core reports it done. */
  send<T>(message: PreparedMessage, value: T): Promise<T> {
    const calls = this.#calls
    const isAlone = calls.outstanding === 0
    if (this.#count === 0) this.#first = calls.next
    const promise = calls.begin(value)
    this.#text += textOf(message)
    this.#count += 1
    if (isAlone || this.#count === MOST_CALLS || this.#text.length > MOST_CHARACTERS) this.flush()
    else if (this.#count === 1) void RESOLVED.then(this.flush)
    return promise
  }

  /** Sends messages together, after those that wait. `failed` as in {@link Calls.beginMany}. */
  sendMany(
    messages: readonly PreparedMessage[],
    failed: (index: number, error: unknown) => void,
  ): Promise<void> {
    this.flush()
    if (messages.length === 0) return RESOLVED
    this.#first = this.#calls.next
    const settled = this.#calls.beginMany(messages.length, failed)
    for (const message of messages) {
      this.#text += textOf(message)
      this.#count += 1
      if (this.#text.length > MOST_CHARACTERS) this.#cross()
    }
    this.flush()
    return settled
  }

  /** Has what waits cross now. */
  readonly flush = (): void => {
    if (this.#count > 0) this.#cross()
  }

  #cross(): void {
    const [first, count, text] = [this.#first, this.#count, this.#text]
    this.#first = (first + count) >>> 0
    this.#count = 0
    this.#text = ''
    this.#calls.cross(first, count, () => this.#publish(first, text))
  }
}

function textOf({ route, taskId, args, kwargs, options }: PreparedMessage): string {
  const id = taskId.includes('\n') || taskId.startsWith('"') ? JSON.stringify(taskId) : taskId
  return `${route}\n${id}\n${args}\n${kwargs === '{}' ? '' : kwargs}\n${options ?? ''}\n`
}
