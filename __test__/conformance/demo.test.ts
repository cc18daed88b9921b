import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type Finished, node } from '../support/processes.ts'
import { startRedis, temporaryFolder } from '../support/servers.ts'
import { within } from '../support/wait.ts'

const script = join(import.meta.dirname, '..', '..', 'scripts', 'demo.mjs')

/** Runs the demo, to its end, on what is built already; it makes its files in `folder`. */
async function demo(folder: string, ...args: string[]): Promise<Finished> {
  await using running = node(script, ['--built', ...args], { env: { TMPDIR: folder } })
  return await within(110, 'the end of the demo', running.finished)
}

/** The rows of the closing table. */
function rows(output: string): Record<string, string> {
  const cells = output.matchAll(/^│ (.+?) *│ *(.+?) │$/gm)
  return Object.fromEntries(Array.from(cells, ([, name = '', value = '']) => [name, value]))
}

function expectGoodTable({ code, stdout, stderr }: Finished): void {
  expect(stderr).toBe('')
  const table = rows(stdout)
  expect(table['every result equals a direct computation']).toBe('yes')
  expect(Number(table['tasks']?.replaceAll(',', ''))).toBeGreaterThanOrEqual(4000)
  expect(Number(table['tasks/s']?.replaceAll(',', ''))).toBeGreaterThan(0)
  expect(table['latency p50']).toMatch(/^\d+\.\d ms$/)
  expect(table['latency p99']).toMatch(/^\d+\.\d ms$/)
  expect(table['retried']).toBe('2 times, then it succeeded')
  expect(table['delayed by 2 s']).toMatch(/^ran after \d+\.\d{3} s$/)
  expect(code).toBe(0)
}

test('the demo runs on a SQLite file, and leaves no file behind', { timeout: 120_000 }, async () => {
  const folder = temporaryFolder()
  expectGoodTable(await demo(folder))
  expect(readdirSync(folder)).toEqual([])
})

test('the demo runs on Redis', { timeout: 120_000 }, async () => {
  const redis = await startRedis()
  expectGoodTable(
    await demo(temporaryFolder(), '--broker', redis.url, '--backend', redis.url, '--concurrency', '20'),
  )
  expect(await redis.command('LLEN', 'word-count')).toBe('0')
  expect(await redis.command('HLEN', 'unacked')).toBe('0')
  await redis.stop()
})

test(
  'an interrupted demo leaves no process, no file and no message behind',
  { timeout: 120_000 },
  async () => {
    const redis = await startRedis()
    const folder = temporaryFolder()
    await using running = node(script, ['--built', '--broker', redis.url], { env: { TMPDIR: folder } })
    await running.says(/\d+ of \d+ tasks/)

    const { code } = await running.end('SIGINT')

    expect(code).toBe(130)
    expect(readdirSync(folder)).toEqual([])
    expect(await redis.command('LLEN', 'word-count')).toBe('0')
    expect(await redis.command('HLEN', 'unacked')).toBe('0')
    // Nobody but the one who asks.
    expect((await redis.command('CLIENT', 'LIST')).split('\n')).toHaveLength(1)
    await redis.stop()
  },
)

test('the demo says what is wrong when the broker cannot be reached', { timeout: 120_000 }, async () => {
  const { code, stdout, stderr } = await demo(temporaryFolder(), '--broker', 'redis://:secret@127.0.0.1:1')
  expect(code).toBe(1)
  expect(stderr).toContain('127.0.0.1:1')
  expect(stdout + stderr).not.toContain('secret')
})
