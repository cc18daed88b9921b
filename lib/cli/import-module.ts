import { relative } from 'node:path'
import { pathToFileURL } from 'node:url'

import { createJiti, type Jiti } from 'jiti'

import { CeleriacError } from '../errors.ts'
import { resolveModule } from './resolve-module.ts'

/** What a module exports, by name. */
export type Exports = Readonly<Record<string, unknown>>

let typescript: Promise<Jiti> | undefined

/**
 * TypeScript is compiled by jiti, because Node 20 cannot. What it imports as 'celeriac' is this very copy, or an app's
 * classes and running task would not be those of the worker. One for the process, so that no module is run twice.
 */
function typescriptLoader(): Promise<Jiti> {
  typescript ??= import('../../index.ts').then((celeriac) =>
    createJiti(import.meta.url, { virtualModules: { celeriac }, interopDefault: false }),
  )
  return typescript
}

/**
 * Imports a user's module: a path, a dotted name or a package, looked for from `folder`. Throws
 * ERR_CELERIAC_MODULE_NOT_FOUND, which says where it was looked for, or what went wrong inside of it and where.
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
    throw new CeleriacError('ERR_CELERIAC_MODULE_NOT_FOUND', `cannot import ${path}: ${describe(cause)}`, {
      cause,
    })
  }
}

/** An error in one line, with the place in the user's code where it arose. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { code } = error as { code?: unknown }
  const lines = (error.stack ?? '').split('\n')
  // Node puts the place of a syntax error in front of the stack.
  const inFront =
    error.name === 'SyntaxError' && /^(?:file:\/\/)?\/.*:\d+$/.test(lines[0] ?? '') ? lines[0] : undefined
  const frame = lines.find(
    (line) => /^\s+at /.test(line) && !/node:internal|[\\/]node_modules[\\/]/.test(line),
  )
  const place = inFront ?? frame?.trim().replace(/^at /, '')
  const known = typeof code === 'string' && code.startsWith('ERR_CELERIAC') ? ` (${code})` : ''
  // jiti calls what the compiler says an Error, and puts the place into its message.
  const message = error.message.replace(/\s+/g, ' ').trim()
  const text = message.startsWith('ParseError: ') ? message : `${error.name}: ${message}`
  return `${text}${known}${place === undefined ? '' : `, at ${place}`}`
}
