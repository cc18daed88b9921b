import { CeleriacError } from './errors.ts'
import type { PreparedMessage } from './prepare.ts'
import type { AsyncResult } from './result.ts'

/** A call of many that was not sent. */
export interface SendFailure {
  /** Its place among the calls, from 0. */
  readonly index: number
  /** Why: what `delay()` would have thrown. */
  readonly error: unknown
}

/** Not all of many calls were sent: `code` is ERR_CELERIAC_NOT_ALL_SENT, `cause` the error of the first that was not. */
export class SendManyError extends CeleriacError {
  override readonly name: string = 'SendManyError'
  /** Those that were not, by their places. One that the broker did not confirm in time may be there all the same. */
  readonly failures: readonly SendFailure[]
  /** The results of the others; null in the place of one that was not sent. */
  readonly results: ReadonlyArray<AsyncResult | null>

  constructor(failures: readonly SendFailure[], results: ReadonlyArray<AsyncResult | null>) {
    const sorted = [...failures].sort((one, other) => one.index - other.index)
    const first = sorted[0]
    const why = first?.error instanceof Error ? first.error.message : String(first?.error)
    const sent = results.filter((result) => result !== null).length
    super(
      'ERR_CELERIAC_NOT_ALL_SENT',
      `${sent === 0 ? 'none' : sent} of ${results.length} calls ${sent === 1 ? 'was' : 'were'} sent; number ${first?.index} (from 0): ${why}`,
      { cause: first?.error },
    )
    this.failures = sorted
    this.results = results
  }
}

/** Prepares each call; throws {@link SendManyError} when any cannot be prepared. */
export function prepareAll<Call>(
  calls: Iterable<Call>,
  prepare: (call: Call) => PreparedMessage,
): PreparedMessage[] {
  const messages: PreparedMessage[] = []
  const failures: SendFailure[] = []
  let index = 0
  for (const call of calls) {
    try {
      messages.push(prepare(call))
    } catch (error) {
      failures.push({ index, error })
    }
    index += 1
  }
  if (failures.length > 0)
    throw new SendManyError(
      failures,
      Array.from({ length: index }, () => null),
    )
  return messages
}
