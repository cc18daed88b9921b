/** What holds at the end of most reliability tests. */

import { expect } from 'vitest'
import type { TestBroker } from '../brokers.ts'
import type { Fleet } from '../fleet.ts'
import { idsThatEnded } from '../killing.ts'
import { until } from '../wait.ts'

/** How many seconds a machine with other things to do may add to what a promise gives for something to happen. */
export const BUSY = 10

/** Waits until nothing waits in these queues and nothing is claimed: a second delivery would be one of the two. */
export async function expectEmpty(
  broker: TestBroker,
  queues: readonly string[],
  seconds = 30,
): Promise<void> {
  let state = ''
  const isEmpty = async (): Promise<boolean> => {
    const waiting = await Promise.all(queues.map((queue) => broker.waiting(queue)))
    const held = await broker.held()
    state = `(${waiting.join(', ')} wait, ${held} are held)`
    return held === 0 && waiting.every((count) => count === 0)
  }
  await until(seconds, 'an empty broker', isEmpty, () => state)
}

/** Waits until these tasks have ended: each began exactly once, no other did, and nothing is left of them. */
export async function expectOnce(
  broker: TestBroker,
  nodes: Fleet,
  queue: string,
  ids: readonly string[],
  seconds = 60,
): Promise<void> {
  await idsThatEnded(nodes, ids, seconds)
  await expectEmpty(broker, [queue], Math.min(seconds, 30))
  expect(nodes.ledger.runs.map(({ id }) => id).toSorted()).toEqual(ids.toSorted())
}
