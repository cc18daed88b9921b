/** A program of `crates/celeriac-testkit` that obeys lines: the first that it writes is about its start, then one for each. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { atMostOnce } from './after-test.ts'
import { leashed, own } from './servers.ts'
import { within } from './wait.ts'

/** A program that was started. */
export interface Aid {
  /** What it said at its start. */
  readonly first: string
  /** Gives a command; the line that it answers with. One at a time, so that each has its own answer. */
  tell(command: string): Promise<string>
  /** Closes its input, which ends it. */
  stop(): Promise<void>
}

/** Starts the program that the environment variable names; `seconds` is how long it may take to answer. */
export async function startAid(variable: string, args: string[], seconds: number): Promise<Aid> {
  const path = process.env[variable]
  if (path === undefined) {
    throw new Error(`${variable} names no program; run these tests with \`npm test -- --only SUITE\``)
  }
  const child = own(spawn(...leashed(path, args), { stdio: ['pipe', 'pipe', 'inherit'] }))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const answer = async (what: string): Promise<string> => {
    const line = await within(seconds, `an answer of ${path} to ${what}`, lines.next())
    if (line.done === true) throw new Error(`${path} ended at ${what}`)
    return line.value
  }
  const first = await answer('its start')
  let last: Promise<unknown> = Promise.resolve()
  return {
    first,
    tell(command) {
      const turn = last.then(async () => {
        child.stdin.write(`${command}\n`)
        return await answer(command)
      })
      last = turn.catch(() => {})
      return turn
    },
    stop: atMostOnce(async () => {
      const end = once(child, 'exit')
      child.stdin.end()
      await within(seconds, `the end of ${path}`, end)
    }),
  }
}
