/** The broker that needs no server: a SQLite file between two processes. */

import { join } from 'node:path'
import { temporaryFolder } from '../../__test__/support/servers.ts'
import type { Bench, Sample } from '../support/contender.ts'
import { environmentFor, resultOf, soon, startOurs, startWorker, stopWorker } from '../support/programs.ts'
import { checkRan, hasRun } from '../support/ran.ts'

const IN_FLIGHT = 1000

/** Tasks per second from delay() to the result in hand: the file is also the result backend. */
export async function embeddedRoundTrips(count: number, { size }: Pick<Bench, 'size'>): Promise<Sample> {
  const file = join(temporaryFolder(), 'celeriac.db')
  const env = environmentFor(`sqla+sqlite:///${file}`, `db+sqlite:///${file}`)
  await using worker = startWorker('celeriac', env)
  const all = size(count)
  const options = { warm: Math.ceil(all / 10), count: all, 'in-flight': IN_FLIGHT }
  const { seconds, mainThread } = await resultOf<{ seconds: number; mainThread: number | null }>(
    startOurs('round-trips', options, env),
  )
  await stopWorker(worker)
  checkRan(env.RAN, options.warm + all)
  return { value: all / seconds, figures: { mainThread } }
}

/** Tasks per second from the first task's body to the last one's, sent meanwhile by another process; no results. */
export async function embeddedTasks(count: number, { size }: Pick<Bench, 'size'>): Promise<Sample> {
  const file = join(temporaryFolder(), 'celeriac.db')
  const all = size(count)
  const env = {
    ...environmentFor(`sqla+sqlite:///${file}`, null),
    IGNORE_RESULT: '1',
    COUNT: String(all),
  }
  await using worker = startWorker('celeriac', env)
  await resultOf(startOurs('produce', { count: all, 'in-flight': IN_FLIGHT }, env))
  await soon('the last task', worker, () => hasRun(env.RAN, all))
  await stopWorker(worker)
  const { firstAt, lastAt, mainThread } = checkRan(env.RAN, all)
  return {
    value: all / ((lastAt - firstAt) / 1000),
    figures: { mainThread: mainThread === null ? null : mainThread / all },
  }
}
