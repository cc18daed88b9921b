import type { Settings } from './config/conf.ts'
import { camelCase } from './config/names.ts'
import type { TaskAnnotation, TaskAnnotationMap, TaskAnnotations, TaskAnnotator } from './config/types.ts'
import type { AnyTaskOptions } from './task-options.ts'
import { checkTaskOptions } from './task-options-check.ts'

/** Options as they were worked out last, by task: valid for one version of one configuration. */
const kept = new WeakMap<object, { conf: Settings; version: number; options: Readonly<AnyTaskOptions> }>()

/** {@link annotatedOptions} by the settings, kept until one of them changes: they are asked for at every call. */
export function currentOptions(
  conf: Settings,
  task: { readonly name: string },
  options: Readonly<AnyTaskOptions>,
): Readonly<AnyTaskOptions> {
  const known = kept.get(task)
  if (known !== undefined && known.version === conf.version && known.conf === conf) return known.options
  const made = annotatedOptions(conf.taskAnnotations, task, options)
  kept.set(task, { conf, version: conf.version, options: made })
  return made
}

/**
 * A task's options with what `taskAnnotations` says of it: first what is said of its name, then what is said of all
 * (`*`), as in `celery.app.annotations.resolve_all`.
 */
export function annotatedOptions(
  annotations: TaskAnnotations | null,
  task: { readonly name: string },
  options: Readonly<AnyTaskOptions>,
): Readonly<AnyTaskOptions> {
  if (annotations === null) return options
  const all = (Array.isArray(annotations) ? annotations : [annotations]) as Array<
    TaskAnnotationMap | TaskAnnotator
  >
  const own = firstAnswer(all, (one) => (typeof one === 'function' ? one(task) : one[task.name]))
  const any = firstAnswer(all, (one) => (typeof one === 'function' ? null : one['*']))
  if (own === undefined && any === undefined) return options
  return checkTaskOptions({
    ...options,
    ...camelCased(own),
    ...camelCased(any),
    name: options.name ?? task.name,
  })
}

function firstAnswer<T>(
  annotations: readonly T[],
  ask: (annotation: T) => TaskAnnotation | null | undefined,
): TaskAnnotation | undefined {
  for (const annotation of annotations) {
    const answer = ask(annotation)
    if (answer !== null && answer !== undefined && Object.keys(answer).length > 0) return answer
  }
  return undefined
}

function camelCased(annotation: TaskAnnotation | undefined): AnyTaskOptions {
  return Object.fromEntries(
    Object.entries(annotation ?? {}).map(([name, value]) => [camelCase(name), value]),
  ) as AnyTaskOptions
}
