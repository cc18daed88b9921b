import { readFileSync, rmSync, writeFileSync } from 'node:fs'

/** A pid file could not be made, because another process has it or the folder cannot be written. */
export class PidfileError extends Error {
  override readonly name = 'PidfileError'
}

/**
 * Writes this process's id to a file, which no two living processes can have; that of a dead one is replaced. Gives a
 * function that removes it again. Throws {@link PidfileError}.
 */
export function createPidfile(path: string): () => void {
  for (let attempt = 0; ; attempt++) {
    try {
      writeFileSync(path, `${process.pid}\n`, { flag: 'wx', mode: 0o644 })
      return () => removeOwn(path)
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException
      if (code !== 'EEXIST')
        throw new PidfileError(`cannot write the pid file ${path}: ${message}`, { cause })
      const pid = readPid(path)
      if (attempt > 0 || (pid !== null && pid !== process.pid && isAlive(pid))) {
        throw new PidfileError(
          `pid file ${path} is that of a running process (${pid}): end that, or take another file`,
        )
      }
      rmSync(path, { force: true })
    }
  }
}

function readPid(path: string): number | null {
  try {
    const pid = Number(readFileSync(path, 'utf8').trim())
    return Number.isInteger(pid) && pid > 0 ? pid : null
  } catch {
    return null
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    // It lives, but is somebody else's.
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

function removeOwn(path: string): void {
  if (readPid(path) === process.pid) rmSync(path, { force: true })
}
