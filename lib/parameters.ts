import { CeleriacError } from './errors.ts'

/** A parameter of a task's body, as `params` declares it. */
export interface Parameter {
  readonly name: string
  readonly required: boolean
}

/** Reads `params`: a question mark, or a default value in the function itself, makes a parameter optional. */
export function parseParameters(
  params: readonly string[],
  body: (...args: never[]) => unknown,
  bound: boolean,
  task: string,
): Parameter[] {
  const withoutDefault = body.length - (bound ? 1 : 0)
  const parameters = params.map((text, index) => {
    const optional = text.endsWith('?')
    const name = optional ? text.slice(0, -1) : text
    if (!/^[\p{L}_$][\p{L}\p{N}_$]*$/u.test(name)) {
      throw new CeleriacError(
        'ERR_CELERIAC_INVALID_ARGUMENT',
        `params of task ${task}: '${text}' is no parameter name`,
      )
    }
    return { name, required: !optional && index < withoutDefault }
  })
  if (new Set(parameters.map(({ name }) => name)).size < parameters.length) {
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      `params of task ${task} name one parameter twice`,
    )
  }
  return parameters
}

/** See {@link Task.bindArguments}. */
export function bindArguments(
  task: string,
  parameters: readonly Parameter[] | null,
  args: readonly unknown[],
  kwargs: Readonly<Record<string, unknown>>,
): unknown[] {
  if (parameters === null) return Object.keys(kwargs).length === 0 ? [...args] : [...args, kwargs]
  const short = `${task.slice(task.lastIndexOf('.') + 1)}()`
  if (args.length > parameters.length) {
    const takes =
      parameters.length === 1 ? '1 positional argument' : `${parameters.length} positional arguments`
    const were = args.length === 1 ? 'was' : 'were'
    throw new TypeError(`${short} takes ${takes} but ${args.length} ${were} given`)
  }
  const bound: unknown[] = [...args]
  for (const [name, value] of Object.entries(kwargs)) {
    const index = parameters.findIndex((parameter) => parameter.name === name)
    if (index < 0) throw new TypeError(`${short} got an unexpected keyword argument '${name}'`)
    if (index < args.length) throw new TypeError(`${short} got multiple values for argument '${name}'`)
    bound[index] = value
  }
  const missing = parameters.filter(
    ({ name, required }, index) => required && index >= args.length && !Object.hasOwn(kwargs, name),
  )
  if (missing.length > 0) {
    const names = missing.map(({ name }) => `'${name}'`)
    const list =
      names.length < 3 ? names.join(' and ') : `${names.slice(0, -1).join(', ')}, and ${names.at(-1)}`
    const plural = missing.length === 1 ? 'argument' : 'arguments'
    throw new TypeError(`${short} missing ${missing.length} required positional ${plural}: ${list}`)
  }
  // Holes would be skipped by array methods; undefined is what an absent argument is.
  return Array.from(bound)
}

/** See {@link Task.rebind}. */
export function rebindArguments(
  parameters: readonly Parameter[] | null,
  args: readonly unknown[],
  kwargs: Readonly<Record<string, unknown>>,
  newArgs: readonly unknown[] | undefined,
  newKwargs: Readonly<Record<string, unknown>> | undefined,
): { args: readonly unknown[]; kwargs: Readonly<Record<string, unknown>> } {
  if (newArgs !== undefined && newKwargs === undefined) {
    const taken = new Set(parameters?.slice(0, newArgs.length).map(({ name }) => name))
    return {
      args: newArgs,
      kwargs: Object.fromEntries(Object.entries(kwargs).filter(([name]) => !taken.has(name))),
    }
  }
  if (newKwargs !== undefined && newArgs === undefined) {
    const left = { ...newKwargs }
    const replaced = args.map((value, index) => {
      const name = parameters?.[index]?.name
      if (name === undefined || !Object.hasOwn(left, name)) return value
      const replacement = left[name]
      delete left[name]
      return replacement
    })
    return { args: replaced, kwargs: parameters === null ? newKwargs : left }
  }
  return { args: newArgs ?? args, kwargs: newKwargs ?? kwargs }
}
