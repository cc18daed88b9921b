/** What a redis-server spends its time on. */

import type { RedisServer } from '../servers.ts'

/** All in milliseconds. */
export interface RedisTime {
  /** When the server was asked, by the clock of `performance.now()`. */
  readonly at: number
  /** Spent in scripts. */
  readonly scripts: number
  /** Of the processor. */
  readonly processor: number
}

export async function redisTime(server: RedisServer): Promise<RedisTime> {
  const at = performance.now()
  const text = await server.command('info', 'everything')
  const numberAfter = (pattern: RegExp): number => Number(pattern.exec(text)?.[1] ?? 0)
  const script = (name: string): number =>
    numberAfter(new RegExp(`cmdstat_${name}:calls=\\d+,usec=(\\d+)`)) / 1000
  return {
    at,
    scripts: script('evalsha') + script('eval'),
    processor: 1000 * (numberAfter(/used_cpu_sys:([\d.]+)/) + numberAfter(/used_cpu_user:([\d.]+)/)),
  }
}
