import { statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'

/** Extensions of modules, in the order in which a name without one is looked for. */
export const MODULE_EXTENSIONS = ['.ts', '.mts', '.cts', '.js', '.mjs', '.cjs'] as const

/** Files of a folder that stand for it: Celery looks for `celery` in a package. */
const FOLDER_MODULES = ['celery', 'app', 'index']

/** Where a module is, and where it was looked for. */
export interface Resolution {
  /** Absolute path; null when there is none. */
  readonly path: string | null
  /** What was tried, in order. */
  readonly tried: readonly string[]
}

/**
 * Finds a module by its path (`./app.ts`, `src/app`, a folder), by a dotted name as Python writes it (`proj.tasks` is
 * `proj/tasks`), or by the name of a package.
 */
export function resolveModule(name: string, folder: string): Resolution {
  const tried: string[] = []
  const isFile = (path: string): boolean => {
    tried.push(path)
    return statSync(path, { throwIfNoEntry: false })?.isFile() === true
  }
  const find = (base: string): string | undefined => {
    if (hasModuleExtension(base) && isFile(base)) return base
    const names = [base, ...FOLDER_MODULES.map((module) => join(base, module))]
    // A folder that is not there need not be looked into.
    const there = statSync(base, { throwIfNoEntry: false })?.isDirectory() === true ? names : [base]
    for (const path of there) {
      for (const extension of MODULE_EXTENSIONS) if (isFile(path + extension)) return path + extension
    }
    return undefined
  }
  const bases = [name]
  if (/^[\p{L}\p{N}_-]+(\.[\p{L}\p{N}_-]+)+$/u.test(name)) bases.push(name.replaceAll('.', '/'))
  for (const base of bases) {
    const path = find(resolve(folder, base))
    if (path !== undefined) return { path, tried }
  }
  if (name.startsWith('.') || name.startsWith('/')) return { path: null, tried }
  try {
    return { path: createRequire(join(folder, 'package.json')).resolve(name), tried }
  } catch {
    return { path: null, tried: [...tried, `the package ${name}`] }
  }
}

function hasModuleExtension(path: string): boolean {
  return MODULE_EXTENSIONS.some((extension) => path.endsWith(extension))
}
