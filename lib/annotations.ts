import { camelCase } from './config/names.ts'
import type { TaskAnnotation, TaskAnnotationMap, TaskAnnotations, TaskAnnotator } from './config/types.ts'
import type { TaskOptions } from './task-options.ts'
import { checkTaskOptions } from './task-options-check.ts'

/**
 * A task's options with what `taskAnnotations` says of it: first what is said of its name, then what is said of all
 * (`*`), as in `celery.app.annotations.resolve_all`.
 */
export function annotatedOptions(
  annotations: TaskAnnotations | null,
  task: { readonly name: string },
  options: Readonly<TaskOptions>,
): Readonly<TaskOptions> {
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

function camelCased(annotation: TaskAnnotation | undefined): TaskOptions {
  return Object.fromEntries(
    Object.entries(annotation ?? {}).map(([name, value]) => [camelCase(name), value]),
  ) as TaskOptions
}
