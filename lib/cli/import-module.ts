import { relative } from 'node:path'
import { pathToFileURL } from 'node:url'

import type { Jiti } from 'jiti'

import { CeleriacError, type CeleriacErrorCode, isCeleriacErrorCode } from '../errors.ts'
import { resolveModule } from './resolve-module.ts'

/** What a module exports, by name. */
export type Exports = Readonly<Record<string, unknown>>

let typescript: Promise<Jiti> | undefined

/**
 * TypeScript is compiled by jiti, because Node 20 cannot. What it imports as 'celeriac' is this very copy, or an app's
 * classes and running task would not be those of the worker. One for the process, so that no module is run twice, and loaded on
 * first use: it takes 13 MiB, which an app in JavaScript need not pay.
 */
function typescriptLoader(): Promise<Jiti> {
  typescript ??= Promise.all([import('jiti'), import('../../index.ts')]).then(([{ createJiti }, celeriac]) =>
    createJiti(import.meta.url, { virtualModules: { celeriac }, interopDefault: false }),
  )
  return typescript
}

/**
 * Imports a user's module: a path, a dotted name or a package, looked for from `folder`. Throws
 * ERR_CELERIAC_MODULE_NOT_FOUND where it, or what it imports, is not there. What else goes wrong inside of it is thrown as it
 * is; an error of celeriac's keeps its code, and says where in the module it arose.
 */
export async function importModule(name: string, folder: string): Promise<Exports> {
  const { path, tried } = resolveModule(name, folder)
  if (path === null) {
    const places = tried.map((place) => (place.startsWith('/') ? relative(folder, place) || place : place))
    throw new CeleriacError(
      'ERR_CELERIAC_MODULE_NOT_FOUND',
      `there is no module '${name}': looked for ${places.join(', ')}`,
    )
  }
  try {
    if (/\.[cm]?tsx?$/.test(path)) return await (await typescriptLoader()).import<Exports>(path)
    return (await import(pathToFileURL(path).href)) as Exports
  } catch (cause) {
    const code = codeOf(cause)
    if (code === undefined) throw cause
    throw new CeleriacError(code, `cannot import ${path}: ${describe(cause)}`, { cause })
  }
}

/** Our own code for what a module threw: a wrong setting is no missing module. Undefined for the user's own errors. */
function codeOf(error: unknown): CeleriacErrorCode | undefined {
  const code = error instanceof Error ? (error as { code?: unknown }).code : undefined
  if (code === 'MODULE_NOT_FOUND' || code === 'ERR_MODULE_NOT_FOUND') return 'ERR_CELERIAC_MODULE_NOT_FOUND'
  return isCeleriacErrorCode(code) ? code : undefined
}

/** An error in one line, with the place in the user's code where it arose. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const frame = (error.stack ?? '')
    .split('\n')
    .find((line) => /^\s+at /.test(line) && !/node:internal|[\\/]node_modules[\\/]/.test(line))
  const place = frame?.trim().replace(/^at /, '')
  return `${error.message.replace(/\s+/g, ' ').trim()}${place === undefined ? '' : `, at ${place}`}`
}
