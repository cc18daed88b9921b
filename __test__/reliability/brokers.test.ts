import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { brokers } from '../support/brokers.ts'
import { fleet } from '../support/fleet.ts'
import { rawTask } from '../support/reliability/messages.ts'
import { until } from '../support/wait.ts'

for (const kind of brokers) {
  describe(`on ${kind.name}`, () => {
    test('workers of both languages take what the harness pushes, and it counts what waits and what is held', async () => {
      const broker = await kind.start()
      const both = fleet(broker)
      const raw = ['node', 'python'].flatMap((queue) =>
        Array.from({ length: 3 }, () => ({ queue, id: randomUUID(), args: [600_000], task: 'node.work' })),
      )
      for (const message of raw) await broker.push(message.queue, rawTask(message))
      await broker.push('node', Buffer.from([0xff, 0x00, 0x0a]), '[]')
      expect(await broker.waiting('node')).toBe(5)
      expect(await broker.held()).toBe(0)

      // Either kind of worker takes them; ours holds what it runs, and buries what is none.
      await both.nodeWorker()
      await both.pythonWorker({ args: ['-P', 'threads', '-c', '3'] })
      await both.ledger.until(60, 'the tasks', () => both.ledger.runs.length === raw.length)
      expect(both.ledger.runs.map(({ id }) => id).toSorted()).toEqual(raw.map(({ id }) => id).toSorted())
      expect(await broker.waiting('node')).toBe(0)
      await until(30, 'six or three held', async () => {
        return (await broker.held()) === (kind.has.pythonRecovers ? 6 : 3)
      })
      expect(await both.app.broker.deadLetters(0, 10)).toHaveLength(2)
      await both.stop()
      await broker.stop()
    })
  })
}
