import { createInterface } from 'node:readline/promises'

import { CeleriacError } from '../errors.ts'

/**
 * Asks whether to do what cannot be undone; `question` says what that is. Throws ERR_CELERIAC_INVALID_ARGUMENT where nobody
 * can answer: the command has `-f` for that.
 */
export async function confirm(question: string): Promise<boolean> {
  if (process.stdin.isTTY !== true) {
    throw new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', `${question} There is nobody to ask: say -f`)
  }
  const terminal = createInterface({ input: process.stdin, output: process.stdout })
  try {
    const answer = await terminal.question(
      `${question} It cannot be undone (-f does not ask). Are you sure? [y/N] `,
    )
    return /^y(es)?$/i.test(answer.trim())
  } finally {
    terminal.close()
  }
}
