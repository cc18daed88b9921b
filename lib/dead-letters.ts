import { inspect } from 'node:util'

import { closest, distance } from 'fastest-levenshtein'

import type { BrokerConnection } from './broker.ts'
import { type DeadMessage, readDeadMessage } from './dead-message.ts'
import { CeleriacError } from './errors.ts'
import type { NativeDeadLetter } from './native.ts'

/**
 * Why a message is in the dead list:
 *
 * - `malformed`: it cannot be read, or is no task message;
 * - `content-disallowed`: its content type is not in `acceptContent`;
 * - `unknown-task`: no task of its name is registered;
 * - `rejected`: its task threw `Reject` without requeue, or something outside of its promise, or anything where its message is
 *   not acknowledged on failure; or what it sent on was refused for good;
 * - `poison`: its worker died while its body ran, `maxDeliveries` times;
 * - `unroutable`: a dead Python worker held it, and no queue is bound where it was sent to;
 * - `unreadable`: what the list itself says about it cannot be read; its bytes may be fine.
 */
export type DeadLetterReason = (typeof deadLetterReasons)[number]

/** Every {@link DeadLetterReason}. */
export const deadLetterReasons = [
  'malformed',
  'content-disallowed',
  'unknown-task',
  'rejected',
  'poison',
  'unroutable',
  'unreadable',
] as const

/** A message in the dead list, without its bytes. */
export interface DeadLetter {
  /** Names it in the list. Not the id of its task. */
  readonly id: string
  /** The queue that it was taken from; null when that is not known. */
  readonly queue: string | null
  /** Why it is there. */
  readonly reason: DeadLetterReason
  /** What exactly was wrong, for people. */
  readonly detail: string
  /** Name of its task; null where the headers of the message name none. */
  readonly task: string | null
  /** Id of its task; null where the headers of the message have none. */
  readonly taskId: string | null
  /** When it came there. */
  readonly date: Date
  /** How many bytes it has. */
  readonly size: number
}

/** {@link DeadLetter} with the message itself. */
export interface WholeDeadLetter extends DeadLetter {
  /** The message as it was taken from the broker, byte by byte. */
  readonly raw: Buffer
  /** What it says; null when it cannot be read. */
  readonly message: DeadMessage | null
}

/** Which letters: those to which all of this applies. */
export interface DeadLetterFilter {
  /** Taken from this queue; null: from one that is not known. */
  queue?: string | null | undefined
  /** There for this reason. */
  reason?: DeadLetterReason | undefined
  /** Of the task of this name; null: that names none. */
  task?: string | null | undefined
}

/** {@link DeadLetterFilter}, and which part of what it lets through. */
export interface DeadLetterListOptions extends DeadLetterFilter {
  /** How many matching letters to leave out first. Default 0. */
  offset?: number | undefined
  /** The most to give. Default 100. */
  limit?: number | undefined
}

/** How to replay. */
export interface ReplayOptions {
  /** The queue to send them to. Default: for each the one that it was taken from. */
  queue?: string | undefined
}

/** How many letters are asked for at once. They come without their bytes. */
const PAGE = 500

/** How many letters are moved or removed at once. These go with their bytes. */
const BATCH = 100

/**
 * The dead list of an app's broker: `app.deadLetters`. Messages that no worker could handle are kept in it, with their
 * original bytes and the reason, until they are replayed or dropped.
 */
export class DeadLetters {
  readonly #broker: BrokerConnection

  constructor(broker: BrokerConnection) {
    this.#broker = broker
  }

  /** Letters without their bytes, oldest first. Rejects with ERR_CELERIAC_INVALID_ARGUMENT for options that it does not know. */
  async list(options: DeadLetterListOptions = {}): Promise<DeadLetter[]> {
    const { offset = 0, limit = 100, ...filter } = checked(options, [...FIELDS, 'offset', 'limit'])
    checkCount('offset', offset)
    checkCount('limit', limit)
    const found: DeadLetter[] = []
    if (limit === 0) return found
    let passed = 0
    for await (const letter of this.scan(filter)) {
      if (passed++ < offset) continue
      found.push(letter)
      if (found.length === limit) break
    }
    return found
  }

  /**
   * Goes over all letters that match, oldest first, a page at a time: for lists of any length. It ends at what was the last
   * one when it began. Those that others remove meanwhile may make it pass over as many.
   */
  async *scan(filter: DeadLetterFilter = {}): AsyncGenerator<DeadLetter, void, undefined> {
    const matches = matcher(filter)
    const end = await this.#broker.deadCount()
    for (let offset = 0; offset < end; offset += PAGE) {
      const page = await this.#broker.deadLetters(offset, Math.min(PAGE, end - offset))
      yield* page.map(fromNative).filter(matches)
    }
  }

  /** How many letters match; without a filter, how many there are. */
  async count(filter: DeadLetterFilter = {}): Promise<number> {
    const matches = matcher(filter)
    if (matches === everything) return this.#broker.deadCount()
    let count = 0
    for await (const _ of this.scan(filter)) count += 1
    return count
  }

  /** One letter with its bytes. Rejects with ERR_CELERIAC_DEAD_LETTER_NOT_FOUND when it is not there (any more). */
  async get(id: string): Promise<WholeDeadLetter> {
    checkId(id)
    const found = await this.#broker.deadLetter(id)
    if (found === null) throw notFound([id])
    const raw = found.raw ?? Buffer.alloc(0)
    return { ...fromNative(found), raw, message: readDeadMessage(raw) }
  }

  /**
   * Sends letters again, byte by byte as they were, to the end of the queues that they were taken from, or of `queue`;
   * they leave the list. With a filter, all that match and were there when it began, `{}` being all; oldest first.
   *
   * Resolves with how many that were. Rejects with ERR_CELERIAC_DEAD_LETTER_NOT_FOUND when of the ids none is there
   * (any more); with ERR_CELERIAC_INVALID_ARGUMENT when the queue of one is not known and none is given.
   */
  async replay(
    which: string | readonly string[] | DeadLetterFilter,
    options: ReplayOptions = {},
  ): Promise<number> {
    const { queue } = checked(options, ['queue'])
    // An undefined variable must not come to mean their old queues.
    if ('queue' in options && queue === undefined)
      throw invalid('queue is undefined: leave it out to mean their own')
    if (queue !== undefined && (typeof queue !== 'string' || queue === ''))
      throw invalid(`queue must be the name of a queue, not ${inspect(queue)}`)
    const ids = isFilter(which) ? await this.#chosen(which, queue === undefined) : checkedIds(which)
    return this.#inBatches('replayed', ids, which, (some) => this.#broker.replayDead(some, queue ?? null))
  }

  /**
   * Removes letters for good. With a filter, all that match and were there when it began, `{}` being all.
   *
   * Resolves with how many that were. Rejects with ERR_CELERIAC_DEAD_LETTER_NOT_FOUND when of the ids none is there
   * (any more).
   */
  async drop(which: string | readonly string[] | DeadLetterFilter): Promise<number> {
    const ids = isFilter(which) ? await this.#chosen(which, false) : checkedIds(which)
    return this.#inBatches('dropped', ids, which, (some) => this.#broker.dropDead(some))
  }

  /**
   * The ids that match now, oldest first. Read from the end: what others remove meanwhile moves the older ones only to
   * where they are still to be read.
   */
  async #chosen(filter: DeadLetterFilter, needsQueue: boolean): Promise<string[]> {
    for (const [name, value] of Object.entries(filter)) {
      // An undefined variable must not come to mean everything.
      if (value === undefined) throw invalid(`${name} is undefined: leave it out to mean any ${name}`)
    }
    const matches = matcher(filter)
    const ids = new Set<string>()
    const lost: string[] = []
    for (let end = await this.#broker.deadCount(); end > 0; end -= PAGE) {
      const start = Math.max(0, end - PAGE)
      const page = await this.#broker.deadLetters(start, end - start)
      for (const letter of page.map(fromNative).filter(matches).toReversed()) {
        ids.add(letter.id)
        if (letter.queue === null) lost.push(letter.id)
      }
    }
    if (needsQueue && lost.length > 0) {
      throw invalid(
        `the queue of ${lost.length} of them is not known (${lost.slice(-3).join(', ')}): say which with \`queue\`. ` +
          'Nothing was replayed',
      )
    }
    return [...ids].toReversed()
  }

  async #inBatches(
    done: string,
    ids: readonly string[],
    which: unknown,
    work: (ids: string[]) => Promise<boolean[]>,
  ): Promise<number> {
    let count = 0
    for (let start = 0; start < ids.length; start += BATCH) {
      try {
        const were = await work(ids.slice(start, start + BATCH))
        count += were.filter(Boolean).length
      } catch (error) {
        if (count === 0 || !(error instanceof CeleriacError)) throw error
        const message = `${error.message} (${count} of ${ids.length} were ${done} before)`
        throw new CeleriacError(error.code, message, { cause: error })
      }
    }
    if (count === 0 && ids.length > 0 && !isFilter(which)) throw notFound(ids)
    return count
  }
}

const FIELDS = ['queue', 'reason', 'task'] as const satisfies ReadonlyArray<keyof DeadLetterFilter>

const everything = (): boolean => true

function matcher(given: DeadLetterFilter): (letter: DeadLetter) => boolean {
  const filter = checked(given, FIELDS)
  for (const name of ['queue', 'task'] as const) {
    const value: unknown = filter[name]
    if (value !== undefined && value !== null && (typeof value !== 'string' || value === ''))
      throw invalid(`${name} must be a name, or null for letters without one, not ${inspect(value)}`)
  }
  const { reason } = filter
  if (reason !== undefined && !deadLetterReasons.includes(reason)) {
    throw invalid(
      `${inspect(reason)} is no reason of the dead list: they are ${deadLetterReasons.join(', ')}`,
    )
  }
  const wanted = FIELDS.filter((name) => filter[name] !== undefined)
  if (wanted.length === 0) return everything
  return (letter) => wanted.every((name) => letter[name] === filter[name])
}

/** The object itself, once it is one and has no property that is not among `known`. */
function checked<T extends object>(given: T, known: readonly string[]): T {
  if (typeof given !== 'object' || given === null)
    throw invalid(`an object with ${known.join(', ')} is expected, not ${inspect(given)}`)
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue
    const nearest = closest(name, known)
    const question = distance(name, nearest) <= 2 ? ` did you mean '${nearest}'?` : ''
    throw invalid(`there is no '${name}' here:${question} There are ${known.join(', ')}`)
  }
  return given
}

function isFilter(which: unknown): which is DeadLetterFilter {
  return typeof which === 'object' && which !== null && !Array.isArray(which)
}

/** Each once. */
function checkedIds(which: string | readonly string[]): readonly string[] {
  if (typeof which !== 'string' && !Array.isArray(which)) {
    throw invalid(`ids of dead letters or a filter are expected, not ${inspect(which)}; {} means all`)
  }
  const ids = typeof which === 'string' ? [which] : which
  for (const id of ids) checkId(id)
  return [...new Set(ids)]
}

function checkId(id: unknown): void {
  if (typeof id !== 'string' || id === '')
    throw invalid(`the id of a dead letter is expected, as list() gives it, not ${inspect(id)}`)
}

function checkCount(name: string, value: unknown): void {
  if (!Number.isSafeInteger(value) || (value as number) < 0)
    throw invalid(`${name} must be a whole number from 0, not ${inspect(value)}`)
}

function invalid(message: string): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', message)
}

function notFound(ids: readonly string[]): CeleriacError {
  const some = ids.slice(0, 3).map((id) => `'${id}'`)
  const more = ids.length > some.length ? ` and ${ids.length - some.length} more` : ''
  return new CeleriacError(
    'ERR_CELERIAC_DEAD_LETTER_NOT_FOUND',
    `the dead list has no letter ${some.join(', ')}${more}: it was replayed or dropped, or the id is wrong (\`celeriac dead list\` shows them)`,
  )
}

function fromNative(letter: NativeDeadLetter): DeadLetter {
  return {
    id: letter.id,
    queue: letter.queue === '' ? null : letter.queue,
    reason: letter.reason as DeadLetterReason,
    detail: letter.detail,
    task: letter.task ?? null,
    taskId: letter.taskId ?? null,
    date: new Date(letter.atMs),
    size: letter.size,
  }
}
