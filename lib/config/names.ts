/** `taskAcksLate` as Celery spells it: `task_acks_late`. */
export type SnakeCase<S extends string, Done extends string = ''> = S extends `${infer C}${infer Rest}`
  ? SnakeCase<Rest, `${Done}${C extends Lowercase<C> ? C : `_${Lowercase<C>}`}`>
  : Done

/** The same properties under Celery's spelling. */
export type SnakeCased<T> = { [K in keyof T as K extends string ? SnakeCase<K> : never]: T[K] }

/** Any of the properties, each in either spelling. */
export type EitherSpelling<T> = {
  [K in keyof T]?: T[K] | undefined
} & { [K in keyof T as K extends string ? SnakeCase<K> : never]?: T[K] | undefined }

/** `taskAcksLate` to `task_acks_late`. */
export function snakeCase<S extends string>(name: S): SnakeCase<S> {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`) as SnakeCase<S>
}

/** `task_acks_late` to `taskAcksLate`. */
export function camelCase(name: string): string {
  return name.replace(/(?<=.)_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

/** A copy of a dictionary with its own keys, not those inside of its values, in camelCase. */
export function withCamelCaseKeys(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [camelCase(key), each]))
}

/** A copy of a dictionary with its own keys, not those inside of its values, in snake_case. */
export function withSnakeCaseKeys(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [snakeCase(key), each]))
}
