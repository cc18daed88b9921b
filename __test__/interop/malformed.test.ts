import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { fleet, type Fleet } from '../support/fleet.ts'
import { python } from '../support/processes.ts'
import { startRedis, temporaryFolder } from '../support/servers.ts'

/** What is no task message, by what is wrong with it. */
const BAD = {
  'no JSON': 'not json',
  'no envelope': '{}',
  'a body that is no base64': JSON.stringify({
    body: '%%% no base64 %%%',
    'content-encoding': 'utf-8',
    'content-type': 'application/json',
    headers: { lang: 'py', task: 'node.add', id: 'bad-body', retries: 0, argsrepr: '()', kwargsrepr: '{}' },
    properties: {
      body_encoding: 'base64',
      correlation_id: 'bad-body',
      delivery_info: { exchange: '', routing_key: 'node' },
      delivery_tag: 'bad-body-tag',
      delivery_mode: 2,
      priority: 0,
    },
  }),
}

/** Good ones around the bad ones; all of them run, the worker lives, and what was bad is kept as it was. */
async function expectTheWorkerToLive(
  nodes: Fleet,
  sendBad: (message: string) => Promise<unknown>,
): Promise<void> {
  const { app } = nodes
  const good = [await app.sendTask('node.add', [0, 1], { queue: 'node' })]
  for (const message of Object.values(BAD)) {
    await sendBad(message)
    good.push(await app.sendTask('node.add', [good.length, 1], { queue: 'node' }))
  }
  const unknown = await app.sendTask('node.nobody_knows', [1], { queue: 'node' })
  good.push(await app.sendTask('node.add', [good.length, 1], { queue: 'node' }))

  const worker = await nodes.nodeWorker()
  const results = await Promise.all(good.map((result) => result.get({ timeout: 30 })))
  expect(results).toEqual([1, 2, 3, 4, 5])
  await expect(unknown.get({ timeout: 30 })).rejects.toMatchObject({ type: 'NotRegistered' })
  const again = await app.sendTask('node.add', [40, 2], { queue: 'node' })
  expect(await again.get({ timeout: 30 })).toBe(42)

  const dead = await app.broker.deadLetters(0, 100)
  const whole = await Promise.all(dead.map(({ id }) => app.broker.deadLetter(id)))
  const texts = whole.map((letter) => letter?.raw?.toString())
  for (const [what, message] of Object.entries(BAD)) expect(texts, what).toContain(message)
  expect(dead.map(({ reason }) => reason).toSorted()).toEqual([
    'malformed',
    'malformed',
    'malformed',
    'unknown-task',
  ])
  expect(worker.child.exitCode).toBeNull()
  await nodes.stop()
}

test('messages that nobody can read do not stop a worker on Redis, nor the good ones among them', async () => {
  const redis = await startRedis()
  const nodes = fleet(`${redis.url}/0`, `${redis.url}/0`)
  await expectTheWorkerToLive(nodes, (message) => redis.command('lpush', 'node', message))
  await redis.stop()
})

test('messages that nobody can read do not stop a worker on SQLite, nor the good ones among them', async () => {
  const path = join(temporaryFolder(), 'broker.db')
  const nodes = fleet(`sqla+sqlite:///${path}`, `db+sqlite:///${path}`)
  const insert = `
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as db:
    db.execute("insert into kombu_message (visible, timestamp, payload, version, queue_id) "
               "select 1, datetime('now'), ?, 1, id from kombu_queue where name = 'node'", (sys.argv[2],))`
  await expectTheWorkerToLive(nodes, (message) =>
    promisify(execFile)(python(), ['-c', insert, path, message]),
  )
})
