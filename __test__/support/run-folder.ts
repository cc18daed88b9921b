/**
 * The one folder of a run of vitest, in which everything temporary lies, whatever process makes it: vitest ends its workers
 * before they could remove what is theirs, and a server that is killed removes nothing.
 */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** What names the folder for temporary files, on each system. */
const VARIABLES = ['TMPDIR', 'TMP', 'TEMP']

/**
 * Makes the folder, for the workers and all that they start; gives what removes it at the end of the run. Under `npm test` it is that
 * command's own (`CELERIAC_RUN_FOLDER`), which removes it.
 */
export default function setUp(): () => void {
  const before = VARIABLES.map((name) => process.env[name])
  const given = process.env['CELERIAC_RUN_FOLDER']
  // Short, because sockets lie in it, whose paths have about a hundred letters at most.
  const folder = given ?? mkdtempSync(join(tmpdir(), 'celeriac-'))
  for (const name of VARIABLES) process.env[name] = folder
  const remove = (): void => {
    if (given !== undefined) return
    try {
      rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
    } catch (error) {
      // A server that does not end yet still writes; what the tests found stands.
      console.error(`${folder} could not be removed: ${(error as Error).message}`)
    }
  }
  // Where vitest is interrupted, or gives up, it does not come to the end of the run.
  process.once('exit', remove)
  // Interrupts end vitest in good order; the end of its terminal would not.
  const hangUp = (): never => process.exit(129)
  process.once('SIGHUP', hangUp)
  return () => {
    VARIABLES.forEach((name, index) => {
      const value = before[index]
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    })
    process.off('SIGHUP', hangUp)
    process.off('exit', remove)
    remove()
  }
}
