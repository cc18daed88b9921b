import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Celery } from 'celeriac'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { nodeTasks } from '../support/fleet.ts'
import { celeriac } from '../support/processes.ts'
import { freePort, type RedisServer, startRedis, temporaryFolder } from '../support/servers.ts'

let redis: RedisServer

beforeAll(async () => {
  redis = await startRedis({ password: 'right & proper' })
})

afterAll(() => redis.stop())

/** What `work` fails with. */
async function failure(work: () => unknown): Promise<{ code: string; message: string }> {
  try {
    await work()
  } catch (error) {
    return error as { code: string; message: string }
  }
  throw new Error('it did not fail')
}

describe('a broker that cannot be used', () => {
  test('a scheme that nothing handles is named, with those that are known', async () => {
    await using app = new Celery({ broker: 'reddis://localhost' })
    const error = await failure(() => app.sendTask('t'))
    expect(error.code).toBe('ERR_CELERIAC_UNKNOWN_SCHEME')
    expect(error.message).toMatch(/reddis.*redis/s)
  })

  test('a URL that is none is refused, with the reason', async () => {
    await using app = new Celery({ broker: 'redis://localhost:port/0' })
    const error = await failure(() => app.sendTask('t'))
    expect(error.code).toBe('ERR_CELERIAC_INVALID_URL')
  })

  test('a wrong password is told from an unreachable broker, and is not shown', async () => {
    await using app = new Celery({
      broker: `redis://:swordfish@127.0.0.1:${redis.port}/0`,
      publishTimeout: 30,
    })
    const error = await failure(() => app.sendTask('t'))
    expect(error.code).toBe('ERR_CELERIAC_AUTHENTICATION_FAILED')
    expect(error.message).not.toContain('swordfish')
    expect(error.message).toContain('127.0.0.1')
  })

  test('the right password is let in, whatever characters it has', async () => {
    await using app = new Celery({ broker: `${redis.url}/0` })
    await app.sendTask('t')
    expect(await app.broker.queueLength('celery')).toBe(1)
  })

  test('a closed port fails delay() when the retries of the publish have passed, and is named', async () => {
    const port = await freePort()
    await using app = new Celery({ broker: `redis://:swordfish@127.0.0.1:${port}/0`, publishTimeout: 0.5 })
    const add = app.task({ name: 'add' }, (x: number, y: number) => x + y)
    const error = await failure(() => add.delay(1, 2))
    expect(error.code).toBe('ERR_CELERIAC_PUBLISH_TIMEOUT')
    expect(error.message).toContain(String(port))
    expect(error.message).not.toContain('swordfish')
  })

  test('in production an app without a broker is refused', async () => {
    const args = ['-A', nodeTasks, 'call', 'node.add']
    const { code, stderr } = await celeriac(args, { env: { NODE_ENV: 'production' } }).finished
    expect(code).not.toBe(0)
    expect(stderr).toContain('ERR_CELERIAC_NO_BROKER')
  })
})

describe('an app that cannot be loaded', () => {
  test('a module that is not there is named', async () => {
    const { code, stderr } = await celeriac(['-A', './nowhere.ts', 'worker']).finished
    expect(code).not.toBe(0)
    expect(stderr).toContain('ERR_CELERIAC_MODULE_NOT_FOUND')
    expect(stderr).toContain('nowhere.ts')
  })

  test('a module without an app is named, with what it exports', async () => {
    const path = join(temporaryFolder(), 'nothing.mjs')
    writeFileSync(path, 'export const somethingElse = 1\n')
    const { code, stderr } = await celeriac(['-A', path, 'worker']).finished
    expect(code).not.toBe(0)
    expect(stderr).toContain('ERR_CELERIAC_APP_NOT_FOUND')
    expect(stderr).toContain('somethingElse')
  })

  test('a worker whose broker refuses it ends with the reason instead of trying for ever', async () => {
    const env = { CELERY_BROKER_URL: `redis://:swordfish@127.0.0.1:${redis.port}/0` }
    const { code, stdout, stderr } = await celeriac(['-A', nodeTasks, 'worker'], { env }).finished
    expect(code).not.toBe(0)
    expect(stderr).toContain('ERR_CELERIAC_AUTHENTICATION_FAILED')
    expect(stdout + stderr).not.toContain('swordfish')
  })
})

describe('tasks and arguments that cannot be', () => {
  test('two tasks of one name', async () => {
    await using app = new Celery({ broker: 'memory://' })
    app.task({ name: 'twice' }, () => {})
    const error = await failure(() => app.task({ name: 'twice' }, () => {}))
    expect(error.code).toBe('ERR_CELERIAC_DUPLICATE_TASK')
    expect(error.message).toContain('twice')
  })

  const circle: { inner: { self?: unknown } } = { inner: {} }
  circle.inner.self = circle
  test.each([
    ['a circle', circle, 'inner'],
    ['a symbol', Symbol('oops'), 'symbol'],
    ['a function', () => {}, 'function'],
    ['a function deep inside', { a: [1, { b: () => {} }] }, 'a'],
  ])(
    '%s as an argument is refused before anything is sent, and its place is named',
    async (_what, value, named) => {
      await using app = new Celery({ broker: 'memory://', publishTimeout: 5 })
      const error = await failure(() => app.sendTask('t', [value]))
      expect(error.code).toBe('ERR_CELERIAC_ENCODE')
      expect(error.message).toContain(named)
      expect(await app.broker.queueLength('celery')).toBe(0)
    },
  )
})

describe('results that cannot be had', () => {
  test('get() without a result backend says which setting is missing', async () => {
    await using app = new Celery({ broker: 'memory://' })
    const result = await app.sendTask('t')
    const error = await failure(() => result.get({ timeout: 30 }))
    expect(error.code).toBe('ERR_CELERIAC_NO_RESULT_BACKEND')
    expect(error.message).toContain('resultBackend')
  })

  test('get() with a timeout, which does not end the task', async () => {
    await using app = new Celery({ broker: `${redis.url}/2`, backend: `${redis.url}/3` })
    const result = await app.sendTask('t')
    const error = await failure(() => result.get({ timeout: 0.1 }))
    expect(error.code).toBe('ERR_CELERIAC_TIMEOUT')
    expect(error.message).toContain(result.id)
    expect(await app.broker.queueLength('celery')).toBe(1)
  })

  test('get() from a backend that is not there names it, without its password', async () => {
    const port = await freePort()
    await using app = new Celery({ broker: 'memory://', backend: `redis://:swordfish@127.0.0.1:${port}/0` })
    const result = await app.sendTask('t')
    const error = await failure(() => result.state())
    expect(error.code).toBe('ERR_CELERIAC_RESULT_STORE_UNAVAILABLE')
    expect(error.message).toContain(String(port))
    expect(error.message).not.toContain('swordfish')
  })
})
