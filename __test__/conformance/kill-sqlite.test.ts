import { join } from 'node:path'
import { expect, test } from 'vitest'
import { fleet } from '../support/fleet.ts'
import { idsThatEnded, killAgainAndAgain, startSurvivor } from '../support/killing.ts'
import { Random } from '../support/random.ts'
import { temporaryFolder } from '../support/servers.ts'

test(
  'a Node worker killed 10 times beside another on one SQLite file loses nothing',
  { timeout: 180_000 },
  async () => {
    const random = new Random()
    const folder = temporaryFolder()
    const nodes = fleet(
      `sqla+sqlite:///${join(folder, 'broker.db')}`,
      `db+sqlite:///${join(folder, 'results.db')}`,
    )
    await startSurvivor(nodes)

    const ids: string[] = []
    const killing = { isOver: false }
    const over = killAgainAndAgain(nodes, random, 10).finally(() => (killing.isOver = true))
    while (!killing.isOver && ids.length < 20_000) {
      const batch = Array.from({ length: 40 }, () =>
        nodes.app.sendTask('node.work', [random.between(0, 50)], { queue: 'work' }),
      )
      const results = await Promise.all(batch)
      ids.push(...results.map(({ id }) => id))
      await nodes.ledger.until(60, 'room for more', () => nodes.ledger.ended.size > ids.length - 200)
    }
    await over

    const ended = await idsThatEnded(nodes, ids, 60)
    expect(ended.toSorted()).toEqual(ids.toSorted())
    const results = await Promise.all(ids.map((id) => nodes.app.AsyncResult(id).get({ timeout: 30 })))
    expect(results.every((result) => result === null)).toBe(true)
    await nodes.stop()
  },
)
