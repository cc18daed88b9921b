import { execFileSync } from 'node:child_process'
import { lstatSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Folders that hold what is made or installed. */
const SKIPPED = new Set(['.git', 'dist', 'node_modules', 'target'])

/** Paths of the text files below the working directory: those that git tracks, or all where there is no git. */
export function textFiles(): string[] {
  return trackedFiles().filter(isText).toSorted()
}

function trackedFiles(): string[] {
  try {
    const output = execFileSync('git', ['ls-files', '-z'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    return output.split('\0').filter((path) => path !== '')
  } catch {
    return walk('.')
  }
}

function walk(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return SKIPPED.has(entry.name) ? [] : walk(path)
    return [path]
  })
}

/** Whether it is a file without a zero byte near its beginning, which is how git tells too. */
function isText(path: string): boolean {
  const isFile = lstatSync(path, { throwIfNoEntry: false })?.isFile() ?? false
  return isFile && !readFileSync(path).subarray(0, 8000).includes(0)
}
