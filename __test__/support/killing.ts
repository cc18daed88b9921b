/** Workers that are killed with -9 while they hold tasks. */

import type { Fleet } from './fleet.ts'
import type { Random } from './random.ts'
import type { Running } from './processes.ts'

/** What a worker of a killing test is started with: leases that run out while the test waits. */
const options = { queues: 'work', args: ['-c', '8'], env: { WORKER_LEASE: '2' } }

/** A worker that stays, and one that is killed with -9 and started again `times` times, each time while it runs tasks. */
export async function killAgainAndAgain(fleet: Fleet, random: Random, times: number): Promise<void> {
  let victim: Running = await fleet.nodeWorker(options)
  for (let kill = 0; kill < times; kill++) {
    const { pid } = victim.child
    const began = random.between(1, 40)
    await fleet.ledger.until(60, `${began} tasks of the worker that is to be killed`, () => {
      const { begun, running } = fleet.ledger.of(pid)
      return begun >= began && running.length > 0
    })
    await victim.end('SIGKILL')
    victim = await fleet.nodeWorker(options)
  }
}

/** Starts the worker that stays. */
export function startSurvivor(fleet: Fleet): Promise<Running> {
  return fleet.nodeWorker(options)
}

/** Waits until every one of these tasks has ended at least once, and gives the ids that ended, each once. */
export async function idsThatEnded(fleet: Fleet, ids: readonly string[], seconds: number): Promise<string[]> {
  const missing = new Set(ids)
  await fleet.ledger.until(seconds, `the end of ${ids.length} tasks`, () => {
    const { ended } = fleet.ledger
    for (const id of missing) if (ended.has(id)) missing.delete(id)
    return missing.size === 0
  })
  return [...fleet.ledger.ended]
}
