import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { python } from './processes.ts'
import { startRedis, temporaryFolder } from './servers.ts'

export interface Ground {
  readonly url: string
  readonly backend: string
  push(queue: string, raw: readonly string[]): Promise<void>
  /** What waits or is held anywhere, for people; empty when nothing does. */
  left(): Promise<string>
  forgetScripts?(): Promise<void>
  stop(): Promise<void>
}

export async function redisGround(results: 'same' | 'other'): Promise<Ground> {
  const server = await startRedis()
  const other = results === 'other' ? await startRedis() : server
  return {
    url: `${server.url}/0`,
    backend: `${other.url}/1`,
    async push(queue, raw) {
      await server.command('lpush', queue, ...raw)
    },
    async left() {
      const lists = await server.command('--scan', '--type', 'list')
      const [unacked, index, leases] = await Promise.all([
        server.command('hlen', 'unacked'),
        server.command('zcard', 'unacked_index'),
        server.command('zcard', 'celeriac.leases'),
      ])
      return [unacked, index, leases].every((count) => count === '0') && lists === ''
        ? ''
        : `unacked ${unacked}, unacked_index ${index}, leases ${leases}, lists ${lists}`
    },
    async forgetScripts() {
      await server.command('script', 'flush')
    },
    async stop() {
      await server.stop()
      if (other !== server) await other.stop()
    },
  }
}

const PUSH = `
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as db:
    for raw in sys.argv[3:]:
        db.execute("insert into kombu_message (visible, payload, version, queue_id) "
                   "select 1, ?, 1, id from kombu_queue where name = ?", (raw, sys.argv[2]))`

const LEFT = `
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as db:
    left = [db.execute('select count(*) from ' + table).fetchone()[0] for table in ('kombu_message', 'celeriac_lease')]
    print('' if left == [0, 0] else 'messages %d, leases %d' % tuple(left))`

export async function sqliteGround(): Promise<Ground> {
  const folder = temporaryFolder()
  const file = join(folder, 'broker.db')
  const run = async (...args: string[]): Promise<string> =>
    (await promisify(execFile)(python(), ['-I', '-S', '-c', ...args])).stdout.trim()
  return {
    url: `sqla+sqlite:///${file}`,
    backend: `db+sqlite:///${join(folder, 'results.db')}`,
    async push(queue, raw) {
      await run(PUSH, file, queue, ...raw)
    },
    left: () => run(LEFT, file),
    stop: async () => {},
  }
}
