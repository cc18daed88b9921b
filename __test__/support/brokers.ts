/**
 * The brokers that the reliability tests go over: `for (const broker of brokers) test(…)`. A broker more is a row more.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Celery, type CeleryOptions } from 'celeriac'
import { afterAll } from 'vitest'
import { afterTest, atMostOnce } from './after-test.ts'
import { messagesIn, publishTo } from './amqp.ts'
import { asAmqp, letterIn } from './amqp-messages.ts'
import { python } from './processes.ts'
import { type RabbitMq, type Traffic, startLastingRabbitMq, startRabbitMq } from './rabbitmq.ts'
import type { WholeGivenUp } from './reliability/dead-list.ts'
import { type RedisServer, startRedis, temporaryFolder } from './servers.ts'
import { until } from './wait.ts'

/** A broker of one test alone, with nobody on it yet. */
export interface TestBroker {
  readonly name: string
  /** For `broker`. */
  readonly url: string
  /** For `backend`: a result backend that comes and goes with the broker. */
  readonly backend: string
  /** Settings that workers and clients of Python's need there, in Python's names. */
  readonly python?: Record<string, unknown>
  /** Puts raw bytes where a producer's message would lie, the first first; whatever they are. */
  push(queue: string, ...raw: (string | Buffer)[]): Promise<void>
  /**
   * The bytes that the dead list shows of a message that was pushed. Given its own bytes it tells those apart that differ: where a
   * broker has a form of its own for messages, two of the same message may not be the same bytes.
   */
  asKept(raw: Buffer): Buffer
  /** How many messages wait in a queue, at any priority. */
  waiting(queue: string): Promise<number>
  /** How many messages are claimed and not settled: ours, and Python's where the broker knows of them. */
  held(): Promise<number>
  /** The ids of the tasks whose messages a worker of ours of this node name has claimed and not settled. */
  heldBy?(node: string): Promise<string[]>
  /** What the dead list has, read from the server at once, where one letter after the other would take long. */
  dead?(): Promise<WholeGivenUp[]>
  /** SIGKILL for the server, where there is one. */
  kill?(): Promise<void>
  /** Starts the server again, with what it had persisted. */
  start?(): Promise<void>
  /** Ends it. */
  stop(): Promise<void>
}

export interface BrokerOptions {
  /** Every write is on the disk before it is answered. */
  persistent?: boolean
  /** Where the results are: on the broker's own server (where the broker can do that), or on another one. Default `same`. */
  results?: 'same' | 'other'
}

/** What one kind of broker can do, and how it is had. */
export interface BrokerKind {
  readonly name: string
  readonly has: {
    /** Python workers take part. */
    readonly python: boolean
    /** What a dead Python worker held comes back. */
    readonly pythonRecovers: boolean
    /** There is a server that can be killed and started again. */
    readonly server: boolean
    /** What is put into the dead list leaves its queue in the same step. */
    readonly oneMove: boolean
    /** A result, what follows from it and the acknowledgement can be one step. */
    readonly oneStep: boolean
  }
  /**
   * Transport options, for both sides, with which a Python worker takes what was claimed that many seconds ago for lost,
   * and looks for it each second.
   */
  impatience(seconds: number): Record<string, number>
  /** Settings of our workers with which what one held that stands still goes to others, at the latest after that many seconds. */
  lease(seconds: number): CeleryOptions
  /** After how many seconds what a killed worker of ours held with such settings is others'. */
  recovers(seconds: number): number
  start(options?: BrokerOptions): Promise<TestBroker>
}

/** A broker that is a redis-server. */
export interface RedisBroker extends TestBroker {
  readonly server: RedisServer
}

/** Starts a redis-server as a broker. */
export async function startRedisBroker(options: BrokerOptions = {}): Promise<RedisBroker> {
  const server = await startRedis({ appendonly: options.persistent === true })
  const results = options.results === 'other' ? await startRedis() : server
  const stop = async (): Promise<void> => {
    await server.stop()
    if (results !== server) await results.stop()
  }
  afterTest(stop)
  return {
    name: 'Redis',
    url: `${server.url}/0`,
    backend: `${results.url}/1`,
    server,
    async push(queue, ...raw) {
      const commands = raw.map((message) => redisCommand('LPUSH', queue, message))
      const said = await fed(['redis-cli', ['-p', String(server.port), '--pipe']], Buffer.concat(commands))
      if (!said.includes('errors: 0')) throw new Error(`redis-server refused messages: ${said}`)
    },
    asKept: (raw) => raw,
    async waiting(queue) {
      const lists = ['', '3', '6', '9'].map((step) => (step === '' ? queue : `${queue}\x06\x16${step}`))
      const lengths = await Promise.all(lists.map((list) => server.command('llen', list)))
      return lengths.reduce((sum, length) => sum + Number(length), 0)
    },
    held: async () => Number(await server.command('hlen', 'unacked')),
    heldBy: async (node) => words(await server.command('eval', HELD_BY, '1', 'unacked', `${node}:`)),
    kill: () => server.kill(),
    start: () => server.start(),
    stop,
  }
}

/** Starts with an empty file as a broker, and another for the results. */
export async function startSqliteBroker(): Promise<TestBroker> {
  const folder = temporaryFolder()
  const file = join(folder, 'broker.db')
  const url = `sqla+sqlite:///${file}`
  const client = new Celery('tables', { broker: url })
  await client.broker.connect()
  await client.close()
  const read = (query: string, ...values: string[]): Promise<string> =>
    fed([python(), ['-I', '-S', '-c', ASK, file, query, ...values]], Buffer.alloc(0))
  const ask = async (query: string, ...values: string[]): Promise<number> =>
    Number(await read(query, ...values))
  return {
    name: 'SQLite',
    url,
    backend: `db+sqlite:///${join(folder, 'results.db')}`,
    async push(queue, ...raw) {
      await fed([python(), ['-I', '-S', '-c', PUSH, file, queue]], framed(raw))
    },
    asKept: (raw) => raw,
    waiting: (queue) =>
      ask(
        'SELECT count(*) FROM kombu_message WHERE visible = 1 AND queue_id = (SELECT id FROM kombu_queue WHERE name = ?)',
        queue,
      ),
    held: () => ask('SELECT count(*) FROM celeriac_lease'),
    heldBy: async (node) =>
      words(
        await read(
          `SELECT coalesce(group_concat(json_extract(payload, '$.properties.correlation_id'), ' '), '')
           FROM kombu_message m JOIN celeriac_lease l ON m.id = l.message_id
           JOIN celeriac_holder h ON h.id = l.holder_id WHERE h.node = ?`,
          node,
        ),
      ),
    stop: async () => {},
  }
}

/** A broker that is a RabbitMQ. */
export interface RabbitMqBroker extends TestBroker {
  readonly server: RabbitMq
  /** Who is connected to it, by the client's port. */
  connections(): Promise<Map<number, Traffic>>
}

/** Starts a RabbitMQ of its own as a broker, and a redis-server for the results. */
export async function startRabbitMqBroker(): Promise<RabbitMqBroker> {
  const server = await startRabbitMq()
  return rabbitMqBroker(server, server.url, '/', () => server.stop())
}

/** The queue that is RabbitMQ's dead list. */
const DEAD = 'celeriac.dead'

let shared: Promise<RabbitMq> | undefined
let lastVhost = 0

afterAll(async () => {
  await (await shared)?.stop()
})

/** A virtual host of its own as a broker, on a RabbitMQ that the tests of a file share, and a redis-server for the results. */
export async function startVhostBroker(): Promise<RabbitMqBroker> {
  shared ??= startLastingRabbitMq()
  const server = await shared
  const vhost = `test-${(lastVhost += 1)}`
  return rabbitMqBroker(server, await server.addVhost(vhost), vhost, () => server.deleteVhost(vhost))
}

async function rabbitMqBroker(
  server: RabbitMq,
  url: string,
  vhost: string,
  end: () => Promise<void>,
): Promise<RabbitMqBroker> {
  const results = await startRedis()
  const stop = atMostOnce(async () => void (await Promise.all([end(), results.stop()])))
  afterTest(stop)
  return {
    name: 'RabbitMQ',
    url,
    backend: `${results.url}/1`,
    server,
    // Without a heartbeat py-amqp leaves what it has read ahead lying until the server sends something else.
    python: { broker_heartbeat: 2 },
    push: (queue, ...raw) =>
      publishTo(
        url,
        queue,
        raw.map((message) => asAmqp(Buffer.from(message as string)).message),
      ),
    asKept: (raw) => asAmqp(raw).kept,
    async dead() {
      const found = await messagesIn(url, DEAD)
      await until(30, 'every letter in its place', async () => {
        return ((await server.queues(vhost)).get(DEAD)?.ready ?? 0) >= found.length
      })
      return found.map(letterIn)
    },
    async waiting(queue) {
      return (await server.queues(vhost)).get(queue)?.ready ?? 0
    },
    async held() {
      const counts = [...(await server.queues(vhost)).values()]
      return counts.reduce((sum, { unacknowledged }) => sum + unacknowledged, 0)
    },
    kill: () => server.kill(),
    start: () => server.start(),
    connections: () => server.connections(vhost),
    stop,
  }
}

/** Every broker that there is. */
export const brokers: readonly BrokerKind[] = [
  {
    name: 'Redis',
    has: { python: true, pythonRecovers: true, server: true, oneMove: true, oneStep: true },
    impatience: (seconds) => ({
      visibility_timeout: seconds,
      unacked_restore_interval: 1,
      // kombu looks only every tenth time, unless it is told otherwise.
      unacked_restore_throttle: 1,
    }),
    lease: (seconds) => ({ workerLease: seconds }),
    recovers: (seconds) => seconds,
    start: startRedisBroker,
  },
  {
    name: 'SQLite',
    has: { python: true, pythonRecovers: false, server: false, oneMove: true, oneStep: false },
    impatience: () => ({}),
    lease: (seconds) => ({ workerLease: seconds }),
    recovers: (seconds) => seconds,
    start: startSqliteBroker,
  },
  {
    name: 'RabbitMQ',
    has: { python: true, pythonRecovers: true, server: true, oneMove: false, oneStep: false },
    impatience: () => ({}),
    // The server closes what was silent for one to two heartbeats.
    lease: (seconds) => ({ workerLease: seconds, brokerHeartbeat: Math.max(1, Math.floor(seconds / 2)) }),
    recovers: () => 0,
    start: startVhostBroker,
  },
]

/** A command as Redis' protocol has it. */
function redisCommand(...parts: (string | Buffer)[]): Buffer {
  const bytes = parts.map((part) => Buffer.from(part as string))
  const framed = bytes.flatMap((part) => [Buffer.from(`$${part.length}\r\n`), part, Buffer.from('\r\n')])
  return Buffer.concat([Buffer.from(`*${parts.length}\r\n`), ...framed])
}

/** Each message with its length before it. */
function framed(messages: readonly (string | Buffer)[]): Buffer {
  return Buffer.concat(
    messages.flatMap((message) => {
      const bytes = Buffer.from(message as string)
      const size = Buffer.alloc(4)
      size.writeUInt32BE(bytes.length)
      return [size, bytes]
    }),
  )
}

/** Runs a command with this input; what it printed. */
async function fed([command, args]: [string, string[]], input: Buffer): Promise<string> {
  const child = spawn(command, args)
  let output = ''
  let errors = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()))
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${output}${errors}`)
  return output
}

const words = (text: string): string[] => text.split(/\s+/).filter((word) => word !== '')

/** The tag of a claim begins with the name of the node. */
const HELD_BY = `
local claims, ids = redis.call('HGETALL', KEYS[1]), {}
for at = 1, #claims, 2 do
  if string.sub(claims[at], 1, #ARGV[1]) == ARGV[1] then
    ids[#ids + 1] = string.match(claims[at + 1], '"correlation_id": "([^"]*)"')
  end
end
return table.concat(ids, ' ')`

const ASK = `
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=60) as db:
    print(db.execute(sys.argv[2], sys.argv[3:]).fetchone()[0])`

/** A row as kombu's producer writes it; bytes that are no text stay as they are. */
const PUSH = `
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=60) as db:
    db.execute('INSERT OR IGNORE INTO kombu_queue (name) VALUES (?)', sys.argv[2:3])
    (queue,) = db.execute('SELECT id FROM kombu_queue WHERE name = ?', sys.argv[2:3]).fetchone()
    read = sys.stdin.buffer.read
    while size := read(4):
        db.execute('INSERT INTO kombu_message (visible, payload, version, queue_id) VALUES (1, CAST(? AS TEXT), 1, ?)',
                   (read(int.from_bytes(size, 'big')), queue))`
