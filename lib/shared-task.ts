import type { Celery } from './app.ts'
import { CeleriacError } from './errors.ts'
import { Task, type TaskBody } from './task.ts'
import type { TaskContext } from './task-context.ts'
import type { AnyTaskOptions, TaskOptions } from './task-options.ts'
import { checkTaskOptions } from './task-options-check.ts'

/** A task that every app has. */
export interface SharedDefinition {
  readonly name: string
  readonly options: AnyTaskOptions
  readonly body: TaskBody
}

const definitions = new Map<string, SharedDefinition>()
/** Apps in the order of their making; weakly, so that being listed keeps none alive. */
let apps: Array<WeakRef<Celery>> = []

/** The app that was made last and is not closed; ERR_CELERIAC_APP_NOT_FOUND when there is none. */
export function currentApp(): Celery {
  const app = livingApps().at(-1)
  if (app === undefined) {
    throw new CeleriacError(
      'ERR_CELERIAC_APP_NOT_FOUND',
      'a shared task was used before any app: make a Celery first',
    )
  }
  return app
}

/** Makes an app the current one, and gives it all shared tasks there are and will be. */
export function joinApps(app: Celery): void {
  apps = [...apps.filter((one) => one.deref() !== undefined), new WeakRef(app)]
  for (const definition of definitions.values()) app.addSharedTask(definition)
}

/** Takes an app that is closed off the list. */
export function leaveApps(app: Celery): void {
  apps = apps.filter((one) => one.deref() !== app)
}

function livingApps(): Celery[] {
  return apps.flatMap((one) => one.deref() ?? [])
}

/**
 * A task that every app has, those made later too: for libraries, which have no app of their own. Its calls go through
 * the app that was made last. Without a name it has the function's.
 */
export function sharedTask<Args extends unknown[], Return>(
  options: TaskOptions<Return> & { bind: true },
  body: (self: TaskContext, ...args: Args) => Return,
): Task<Args, Return>
export function sharedTask<Args extends unknown[], Return>(
  options: TaskOptions<Return> & { bind?: false | undefined },
  body: (...args: Args) => Return,
): Task<Args, Return>
export function sharedTask<Args extends unknown[], Return>(
  body: (...args: Args) => Return,
): Task<Args, Return>
export function sharedTask(first: TaskOptions<never> | TaskBody, second?: TaskBody): Task {
  const [given, body] = typeof first === 'function' ? [{}, first] : [first as AnyTaskOptions, second]
  const name = given.name ?? body?.name
  if (typeof body !== 'function' || name === undefined || name === '') {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      'sharedTask needs a function, and a name: { name: … }',
    )
  }
  if (definitions.has(name)) {
    throw new CeleriacError(
      'ERR_CELERIAC_DUPLICATE_TASK',
      `two shared tasks are called ${name}: give one another name`,
    )
  }
  const options = checkTaskOptions(given)
  const definition = { name, options, body }
  for (const app of livingApps()) app.addSharedTask(definition)
  definitions.set(name, definition)
  return new Task(currentApp, name, options, body)
}
