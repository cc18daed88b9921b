import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import { Celery } from 'celeriac'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'

import { node } from '../support/processes.ts'
import { type RedisServer, startRedis, temporaryFolder } from '../support/servers.ts'
import { until, within } from '../support/wait.ts'

/** Calls that are made one at a time, on Redis: they go a way of their own. */

let redis: RedisServer
let app: Celery
let add: ReturnType<typeof taskOf>

function taskOf(of: Celery) {
  return of.task({ name: 'add' }, (x: number, _text?: string) => x)
}

beforeAll(async () => {
  redis = await startRedis()
})

afterAll(() => redis.stop())

beforeEach(async () => {
  await redis.command('FLUSHALL')
  app = new Celery('sending', { broker: redis.url })
  add = taskOf(app)
})

afterEach(() => app.close())

/** The ids of the connections that sent messages last. */
async function connections(): Promise<Set<string>> {
  const list = await redis.command('CLIENT', 'LIST')
  return new Set([...list.matchAll(/^id=(\d+) .*cmd=lpush/gm)].map(([, id]) => id as string))
}

/** Makes calls until they have a connection of their own; says how many it made. */
async function warm(): Promise<number> {
  let made = 0
  // Those of apps that were closed go with the garbage.
  const others = await connections()
  await until(30, 'a connection for calls that are made one at a time', async () => {
    for (let index = 0; index < 20; index++) await add.delay(made++)
    return [...(await connections())].filter((id) => !others.has(id)).length === 2
  })
  for (let index = 0; index < 20; index++) await add.delay(made++)
  return made
}

/** The first arguments of what is in the queue, oldest first. */
async function sent(): Promise<number[]> {
  const raw = await redis.command('--json', 'LRANGE', 'celery', '0', '-1')
  return (JSON.parse(raw) as string[]).toReversed().map((text) => {
    const { body } = JSON.parse(text) as { body: string }
    return (JSON.parse(Buffer.from(body, 'base64').toString()) as [[number]])[0][0]
  })
}

const numbers = (length: number): number[] => Array.from({ length }, (_, index) => index)

test('all are there once, in their order, also among others that are made together', async () => {
  let next = await warm()
  for (const size of [1, 2, 1, 300, 1, 1, 7]) {
    await Promise.all(numbers(size).map((index) => add.delay(next + index)))
    next += size
  }
  for (const length of [10_000, 100_000, 1_000_000]) await add.delay(next++, 'é'.repeat(length))
  await add.delay(next++)
  expect(await sent()).toEqual(numbers(next))
})

function block(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2500)
}

test('a call is sent though the event loop is busy for longer than publishTimeout', async () => {
  app.conf.publishTimeout = 1
  await warm()
  const first = add.delay(-1)
  const second = add.delay(-2)
  // The second one crosses to the core at the end of this turn.
  await Promise.resolve()
  await Promise.resolve()
  block()
  await within(30, 'both calls', Promise.all([first, second]))
  const third = add.delay(-3)
  block()
  await within(30, 'the call', third)
  expect((await sent()).slice(-3)).toEqual([-1, -2, -3])
})

test('calls arrive when their connection was cut', async () => {
  let next = await warm()
  for (let round = 0; round < 3; round++) {
    await redis.command('CLIENT', 'KILL', 'TYPE', 'normal')
    for (let index = 0; index < 30; index++) await within(30, `call ${next}`, add.delay(next++))
  }
  // What was written as it was cut may have been written again.
  expect([...new Set(await sent())]).toEqual(numbers(next))
})

test('a call that the server does not answer fails in time, and the next one goes', async () => {
  app.conf.publishTimeout = 1
  await warm()
  await redis.command('CLIENT', 'PAUSE', '600000', 'WRITE')
  try {
    const call = within(30, 'the end of the call', add.delay(-1))
    await expect(call).rejects.toMatchObject({ code: 'ERR_CELERIAC_PUBLISH_TIMEOUT' })
  } finally {
    await redis.command('CLIENT', 'UNPAUSE')
  }
  await within(30, 'the next call', add.delay(-2))
  expect((await sent()).at(-1)).toBe(-2)
})

test('a call fails with what the server answered', async () => {
  await warm()
  await redis.command('DEL', 'celery')
  await redis.command('SET', 'celery', 'no list')
  await expect(within(30, 'the end of the call', add.delay(-1))).rejects.toMatchObject({
    code: 'ERR_CELERIAC_REFUSED',
    message: expect.stringContaining('WRONGTYPE') as string,
  })
})

test('a call under way when the server is killed arrives when it is back', async () => {
  const persistent = await startRedis({ appendonly: true })
  const other = new Celery('other', { broker: persistent.url, publishTimeout: 60 })
  const task = taskOf(other)
  for (let index = 0; index < 200; index++) await task.delay(index)
  await persistent.kill()
  const call = task.delay(200)
  await persistent.start()
  await within(60, 'the call', call)
  expect(Number(await persistent.command('LLEN', 'celery'))).toBeGreaterThanOrEqual(201)
  await other.close()
  await persistent.stop()
})

test('their connection keeps no process alive', async () => {
  const file = join(temporaryFolder(), 'send.mjs')
  const api = pathToFileURL(join(import.meta.dirname, '..', '..', 'dist', 'index.js')).href
  writeFileSync(
    file,
    `import { Celery } from '${api}'
const app = new Celery('t', { broker: '${redis.url}' })
const add = app.task({ name: 'add' }, (x) => x)
for (let index = 0; index < 200; index++) await add.delay(index)
void add.delay(200)
console.log('sent')
`,
  )
  const { code, stdout } = await within(30, 'the end of the process', node(file).finished)
  expect({ code, stdout }).toEqual({ code: 0, stdout: 'sent\n' })
  expect(await sent()).toEqual(numbers(201))
})

test('their connections go with the thread that is ended without closing its app', async () => {
  const file = join(temporaryFolder(), 'thread.mjs')
  const api = pathToFileURL(join(import.meta.dirname, '..', '..', 'dist', 'index.js')).href
  const own = await startRedis()
  writeFileSync(
    file,
    `import { parentPort } from 'node:worker_threads'
import { Celery } from '${api}'
const app = new Celery('t', { broker: '${own.url}' })
const add = app.task({ name: 'add' }, (x) => x)
for (let index = 0; index < 50; index++) await add.delay(index)
parentPort.postMessage('sent')
setInterval(() => {}, 1000)
`,
  )
  const connections = async (): Promise<number> => {
    const clients = (await own.command('CLIENT', 'LIST')).split('\n')
    // But for the one that asks.
    return clients.filter((client) => !client.includes('cmd=client')).length
  }
  const thread = new Worker(file)
  await within(30, 'the calls of the thread', once(thread, 'message'))
  expect(await connections()).toBeGreaterThan(0)
  await thread.terminate()
  await until(30, 'the end of its connections', async () => (await connections()) === 0)
  expect(await own.command('LLEN', 'celery')).toBe('50')
  await own.stop()
})
