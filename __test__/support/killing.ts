/** Workers that are killed with -9 while they hold tasks, and what becomes of what they held. */

import type { Fleet } from './fleet.ts'
import type { Ledger } from './ledger.ts'
import type { Running } from './processes.ts'
import type { Random } from './random.ts'

/** A worker that was killed. */
export interface Death {
  readonly process: number
  /** Milliseconds since 1970. */
  readonly at: number
  /** The tasks that it had claimed, as the broker has it, or received, as its log has it, and that had not ended anywhere. */
  readonly held: readonly string[]
  /** How many of those it ran. */
  readonly running: number
}

/** Kills a worker of ours once it has begun that many tasks and runs some. */
export async function killWhileItRuns(
  fleet: Fleet,
  worker: Running,
  begun = 1,
  claimed?: () => Promise<string[]>,
): Promise<Death> {
  const { pid } = worker.child
  await fleet.ledger.until(60, `${begun} tasks of the worker that is to be killed`, () => {
    const own = fleet.ledger.of(pid)
    return own.begun >= begun && own.running.length > 0
  })
  return kill(fleet, worker, claimed)
}

/** Kills a worker of ours; `claimed` asks the broker for the ids of the tasks that it has not settled. */
export async function kill(
  fleet: Fleet,
  worker: Running,
  claimed: () => Promise<string[]> = async () => [],
): Promise<Death> {
  const at = Date.now()
  await worker.end('SIGKILL')
  const unsettled = await claimed()
  const { ended } = fleet.ledger
  const { running } = fleet.ledger.of(worker.child.pid)
  const received = worker.output.matchAll(/Task \S+\[([0-9a-f-]{36})\] received/g)
  // What was claimed a moment ago is not in the log yet.
  const all = [...unsettled, ...[...received].map(([, id = '']) => id)]
  const held = new Set(all.filter((id) => !ended.has(id)))
  for (const { id } of running) held.add(id)
  return { process: worker.child.pid ?? 0, at, held: [...held], running: running.length }
}

/**
 * Keeps `count` workers of ours at work, and kills one of them, whichever, `times` times, each time while it runs tasks;
 * another takes its place. Gives the deaths, and the workers that live. `start` gets a name for the node, by which
 * `claimed` asks the broker for the ids of the tasks that it has not settled.
 */
export async function killAgainAndAgain(
  random: Random,
  fleet: Fleet,
  { times, count, start, claimed = async () => [] }: KillingOptions,
): Promise<{ deaths: Death[]; alive: Running[] }> {
  let started = 0
  const next = async (): Promise<{ node: string; worker: Running }> => {
    const node = `mortal${(started += 1)}@test`
    return { node, worker: await start(node) }
  }
  const alive = await Promise.all(Array.from({ length: count }, next))
  const deaths: Death[] = []
  while (deaths.length < times) {
    const place = random.between(0, count - 1)
    const { node, worker } = alive[place] as { node: string; worker: Running }
    deaths.push(await killWhileItRuns(fleet, worker, random.between(1, 40), () => claimed(node)))
    alive[place] = await next()
  }
  return { deaths, alive: alive.map(({ worker }) => worker) }
}

export interface KillingOptions {
  times: number
  count: number
  start: (node: string) => Promise<Running>
  claimed?: ((node: string) => Promise<string[]>) | undefined
}

/**
 * Sends tasks `node.work` until there are `least` of them and `isOver` says so; there are always some in the queue, and
 * never many. Gives their ids.
 */
export async function feed(
  fleet: Fleet,
  { queue, milliseconds, least, isOver }: FeedOptions,
): Promise<string[]> {
  const ids: string[] = []
  while (ids.length < least || !isOver()) {
    const batch = Array.from({ length: 50 }, () =>
      fleet.app.sendTask('node.work', [milliseconds()], { queue }),
    )
    for (const { id } of await Promise.all(batch)) ids.push(id)
    await fleet.ledger.until(60, 'room for more', () => fleet.ledger.ended.size > ids.length - 400)
  }
  return ids
}

export interface FeedOptions {
  queue: string
  /** How long each task takes. */
  milliseconds: () => number
  /** How many tasks there are at least. */
  least: number
  isOver: () => boolean
}

/**
 * How long it took, in milliseconds, until each task that a dead worker had held began elsewhere. Who took it over may
 * have died with it, before it began: then the time counts from that death.
 */
export function recoveries(ledger: Ledger, deaths: readonly Death[]): number[] {
  return deaths.flatMap((death, place) => {
    const later = deaths.slice(place + 1)
    return death.held.flatMap((id) => {
      const next = ledger.runsOf(id).find((run) => run.process !== death.process && run.began >= death.at)
      if (next === undefined) throw new Error(`task ${id} of process ${death.process} never began elsewhere`)
      const diedAgain = later.some(({ at, held }) => at < next.began && held.includes(id))
      return diedAgain ? [] : [next.began - death.at]
    })
  })
}

/** Waits until every one of these tasks has ended at least once, and gives the ids that ended, each once. */
export async function idsThatEnded(fleet: Fleet, ids: readonly string[], seconds: number): Promise<string[]> {
  const missing = new Set(ids)
  const allEnded = (): boolean => {
    const { ended } = fleet.ledger
    for (const id of missing) if (ended.has(id)) missing.delete(id)
    return missing.size === 0
  }
  const named = (): string => `(${missing.size} are missing: ${[...missing].slice(0, 20).join(', ')})`
  await fleet.ledger.until(seconds, `the end of ${ids.length} tasks`, allEnded, named)
  return [...fleet.ledger.ended]
}
