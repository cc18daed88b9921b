import { APP_BRAND, type Celery } from '../app.ts'
import { CeleriacError } from '../errors.ts'
import { type Exports, importModule } from './import-module.ts'

/** Exports that are looked at first, in this order. */
const USUAL_NAMES = ['app', 'celery', 'default']

/** Whether a value is an app, be it of another copy of celeriac. */
export function isApp(value: unknown): value is Celery {
  return typeof value === 'object' && value !== null && APP_BRAND in value
}

/**
 * The app that `-A` names: a module and, after a colon, the name of its export. Without one it is the export `app`,
 * `celery` or `default`, else the only app that the module exports. Throws ERR_CELERIAC_MODULE_NOT_FOUND or
 * ERR_CELERIAC_APP_NOT_FOUND.
 */
export async function findApp(name: string, folder: string = process.cwd()): Promise<Celery> {
  const colon = name.lastIndexOf(':')
  const [module, exported] = colon > 0 ? [name.slice(0, colon), name.slice(colon + 1)] : [name, '']
  const exports = await importModule(module, folder)
  return exported === '' ? onlyApp(exports, module) : appCalled(exported, exports, module)
}

function appCalled(path: string, exports: Exports, module: string): Celery {
  let value: unknown = withDefault(exports)
  for (const part of path.split('.')) value = (value as Record<string, unknown> | null | undefined)?.[part]
  if (isApp(value)) return value
  const found = value === undefined ? 'there is no such export' : `it is of type ${typeName(value)}`
  throw notFound(`${module} has no app called '${path}': ${found}; it exports ${names(exports)}`)
}

function onlyApp(exports: Exports, module: string): Celery {
  const all = withDefault(exports)
  for (const name of USUAL_NAMES) if (isApp(all[name])) return all[name]
  const apps = new Map<Celery, string>()
  for (const [name, value] of Object.entries(all)) if (isApp(value)) apps.set(value, name)
  const [first] = apps.keys()
  if (first !== undefined && apps.size === 1) return first
  if (first !== undefined) {
    throw notFound(
      `${module} has several apps: say which, ${[...apps.values()].map((name) => `${module}:${name}`).join(' or ')}`,
    )
  }
  throw notFound(
    `${module} exports no app: export a Celery as 'app', or say -A ${module}:NAME; it exports ${names(exports)}`,
  )
}

/** The exports with those of a CommonJS module, which come as the default one. */
function withDefault(exports: Exports): Exports {
  const inner = exports['default']
  if (typeof inner !== 'object' || inner === null || isApp(inner)) return exports
  return { ...(inner as Exports), ...exports }
}

function names(exports: Exports): string {
  const all = Object.keys(exports).filter((name) => name !== 'module.exports')
  return all.length === 0 ? 'nothing' : all.join(', ')
}

function typeName(value: unknown): string {
  return typeof value === 'object' && value !== null ? (value.constructor?.name ?? 'object') : typeof value
}

function notFound(message: string): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_APP_NOT_FOUND', message)
}
