import { CeleriacError } from '../../errors.ts'
import { asyncPool } from './async.ts'
import type { PoolDefinition } from './pool.ts'
import { soloPool } from './solo.ts'

/** All pools; one is a line here and a file beside this one. */
export const pools: readonly PoolDefinition[] = [asyncPool, soloPool]

/** Pools of Celery's that are to come. */
const TO_COME = new Set(['prefork', 'processes', 'threads', 'custom'])

/** The pool of that name or alias; ERR_CELERIAC_NOT_SUPPORTED for one to come, _INVALID_ARGUMENT for no such name. */
export function poolNamed(name: string): PoolDefinition {
  const found = pools.find((pool) => pool.name === name || pool.aliases.includes(name))
  if (found !== undefined) return found
  const choice = pools.flatMap((pool) => [pool.name, ...pool.aliases]).join(', ')
  if (TO_COME.has(name)) {
    throw new CeleriacError(
      'ERR_CELERIAC_NOT_SUPPORTED',
      `the pool '${name}' is not supported yet: choose ${choice}`,
    )
  }
  throw new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', `there is no pool '${name}': choose ${choice}`)
}
