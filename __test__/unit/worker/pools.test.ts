import { expect, test } from 'vitest'

import type { Delivery } from '../../../lib/request.ts'
import { Deferred } from '../../../lib/worker/deferred.ts'
import { poolNamed, pools } from '../../../lib/worker/pool/pools.ts'
import type { TaskRunner } from '../../../lib/worker/run-task.ts'

/** A runner whose bodies end when a test says so. */
class FakeRunner {
  readonly begun: number[] = []
  readonly ends = new Map<number, Deferred<void>>()

  run(delivery: Delivery): Promise<void> {
    this.begun.push(delivery[0])
    const end = new Deferred<void>()
    this.ends.set(delivery[0], end)
    return end.promise
  }

  end(tag: number): void {
    this.ends.get(tag)?.resolve()
  }
}

const delivery = (tag: number): Delivery => [tag, 'task', `id-${tag}`, [], {}, false, {}]
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('async begins all at once and is idle when all have ended', async () => {
  const runner = new FakeRunner()
  const pool = poolNamed('async').create(runner as unknown as TaskRunner)
  for (const tag of [1, 2, 3]) pool.begin(delivery(tag))
  expect(runner.begun).toEqual([1, 2, 3])
  let idle = false
  void pool.idle().then(() => (idle = true))
  runner.end(1)
  runner.end(3)
  await turn()
  expect([pool.active, idle]).toEqual([1, false])
  runner.end(2)
  await turn()
  expect([pool.active, idle]).toEqual([0, true])
})

test('solo begins one when the one before has ended', async () => {
  const runner = new FakeRunner()
  const pool = poolNamed('solo').create(runner as unknown as TaskRunner)
  pool.begin(delivery(1))
  pool.begin(delivery(2))
  await turn()
  expect([runner.begun, pool.active]).toEqual([[1], 2])
  runner.end(1)
  await turn()
  expect(runner.begun).toEqual([1, 2])
})

test.each(['async', 'solo'])('%s: a run that is rejected gives its place back', async (name) => {
  const runner = new FakeRunner()
  const pool = poolNamed(name).create(runner as unknown as TaskRunner)
  pool.begin(delivery(1))
  pool.begin(delivery(2))
  await turn()
  runner.ends.get(1)?.reject(new Error('x'))
  await turn()
  expect([runner.begun, pool.active]).toEqual([[1, 2], 1])
  runner.end(2)
  await pool.idle()
})

test('an idle pool is idle at once', async () => {
  const pool = poolNamed('async').create(new FakeRunner() as unknown as TaskRunner)
  await pool.idle()
  expect(pool.active).toBe(0)
})

test('every pool is found by its name and its aliases', () => {
  for (const pool of pools)
    for (const name of [pool.name, ...pool.aliases]) expect(poolNamed(name)).toBe(pool)
  expect(poolNamed('gevent').name).toBe('async')
})

test('pools to come are told from pools that are not', () => {
  expect(() => poolNamed('prefork')).toThrow(expect.objectContaining({ code: 'ERR_CELERIAC_NOT_SUPPORTED' }))
  expect(() => poolNamed('assync')).toThrow(
    expect.objectContaining({
      code: 'ERR_CELERIAC_INVALID_ARGUMENT',
      message: expect.stringContaining('choose async') as string,
    }),
  )
})
