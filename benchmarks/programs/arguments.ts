import { parseArgs } from 'node:util'

/** Numbers from the command line, `--count 1000 --in-flight 10`; what is not given has its value of `defaults`. */
export function numbers<Name extends string>(defaults: Record<Name, number>): Record<Name, number> {
  const options = Object.fromEntries(Object.keys(defaults).map((name) => [name, { type: 'string' as const }]))
  const { values } = parseArgs({ options })
  const given = Object.entries(values).map(([name, text]) => [name, Number(text)])
  return { ...defaults, ...(Object.fromEntries(given) as Record<Name, number>) }
}
