import { join } from 'node:path'
import { TaskRevokedError } from 'celeriac'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fleet, type Fleet } from '../support/fleet.ts'
import { callsInBothDirections, type MeetingPlace } from '../support/interop.ts'
import { temporaryFolder } from '../support/servers.ts'

function newFiles(): MeetingPlace {
  const folder = temporaryFolder()
  return {
    broker: `sqla+sqlite:///${join(folder, 'broker.db')}`,
    backend: `db+sqlite:///${join(folder, 'results.db')}`,
    stop: async () => {},
  }
}

// kombu has neither broadcasts nor priorities there; it takes our messages in the order of theirs all the same.
callsInBothDirections('a SQLite file', async () => newFiles(), {
  remoteControl: false,
  mostUrgent: 0,
  pythonSendsPriorities: false,
  restarts: false,
})

let both: Fleet

beforeAll(async () => {
  const { broker, backend } = newFiles()
  both = fleet(broker, backend)
  await both.app.broker.connect()
  await both.nodeWorker()
})

afterAll(() => both.stop())

describe('Node calls Node over a SQLite file', () => {
  test('and revokes the task before it starts', async () => {
    const result = await both.app.sendTask('node.write', ['revoked'], { countdown: 2, queue: 'node' })
    await result.revoke()
    await expect(result.get({ timeout: 60 })).rejects.toBeInstanceOf(TaskRevokedError)
    expect(both.ledger.lines).not.toContain('revoked')
  })

  test('with priorities, and the most urgent task runs first', async () => {
    for (const priority of [9, 3, 6, 0]) {
      await both.app.sendTask('node.write', [`to node ${priority}`], { priority, queue: 'node_urgent' })
    }
    const worker = await both.nodeWorker({
      queues: 'node_urgent',
      args: ['-P', 'solo', '--prefetch-multiplier', '1'],
    })
    await both.ledger.until(
      30,
      'all four tasks',
      (lines) => lines.filter((l) => l.startsWith('to node')).length === 4,
    )
    expect(both.ledger.after('to node')).toEqual(['0', '3', '6', '9'])
    await worker.end()
  })
})
