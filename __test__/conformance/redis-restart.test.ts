import { expect, test } from 'vitest'
import { fleet } from '../support/fleet.ts'
import { idsThatEnded } from '../support/killing.ts'
import { startRedis } from '../support/servers.ts'

test(
  'delay() and the workers carry on by themselves when Redis is killed and started again',
  { timeout: 180_000 },
  async () => {
    const redis = await startRedis({ appendonly: true })
    const nodes = fleet(`${redis.url}/0`, `${redis.url}/1`, { publishTimeout: 60 })
    // What was claimed when the answer was lost comes back after a lease.
    await nodes.nodeWorker({ queues: 'work', env: { WORKER_LEASE: '2' } })
    const work = nodes.app.task({ name: 'node.work', queue: 'work' }, (_milliseconds: number) => {})

    const ids: string[] = []
    const sending = { isOver: false }
    const producers = Array.from({ length: 20 }, async () => {
      while (!sending.isOver) {
        const { id } = await work.delay(1)
        ids.push(id)
      }
    })
    for (let restart = 0; restart < 3; restart++) {
      const before = ids.length
      await nodes.ledger.until(60, 'work before the restart', () => ids.length > before + 100)
      await redis.kill()
      await redis.start()
    }
    const after = ids.length
    await nodes.ledger.until(60, 'delay() after the last restart', () => ids.length > after + 100)
    sending.isOver = true
    await Promise.all(producers)

    const ended = new Set(await idsThatEnded(nodes, ids, 60))
    expect(ids.filter((id) => !ended.has(id))).toEqual([])
    const last = await work.delay(0)
    await last.get({ timeout: 30 })
    await nodes.stop()
    await redis.stop()
  },
)
