import { expect, test } from 'vitest'
import { fleet } from '../support/fleet.ts'
import { idsThatEnded, killAgainAndAgain, startSurvivor } from '../support/killing.ts'
import { Random } from '../support/random.ts'
import { startRedis } from '../support/servers.ts'

test('a Node worker killed 10 times beside another and a Python worker on one Redis queue loses nothing', async () => {
  const random = new Random()
  const redis = await startRedis()
  const both = fleet(`${redis.url}/0`, `${redis.url}/1`)
  const [, python] = await Promise.all([startSurvivor(both), both.pythonWorker({ queues: 'work' })])

  const ids: string[] = []
  const killing = { isOver: false }
  const over = killAgainAndAgain(both, random, 10).finally(() => (killing.isOver = true))
  // There is always something to hold while workers are killed, and an end to it.
  while (!killing.isOver && ids.length < 20_000) {
    const batch = Array.from({ length: 40 }, () =>
      both.app.sendTask('node.work', [random.between(0, 50)], { queue: 'work' }),
    )
    const results = await Promise.all(batch)
    ids.push(...results.map(({ id }) => id))
    await both.ledger.until(60, 'room for more', () => both.ledger.ended.size > ids.length - 200)
  }
  await over
  const fromPython = await both.python.run(`
print(' '.join(app.send_task('node.work', (5,), queue='work').id for _ in range(100)))`)
  ids.push(...fromPython.split(' '))

  const ended = await idsThatEnded(both, ids, 60)
  expect(ended.toSorted()).toEqual(ids.toSorted())
  const states = await Promise.all(ids.map((id) => both.app.AsyncResult(id).get({ timeout: 30 })))
  expect(states.every((result) => result === null)).toBe(true)
  expect(both.ledger.of(python.child.pid).begun > 0, 'Python had its part').toBe(true)
  await both.stop()
  await redis.stop()
})
