/**
 * The brokers that the reliability tests go over: `for (const broker of brokers) test(…)`. A broker more is a row more.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Celery } from 'celeriac'
import { afterTest } from './after-test.ts'
import { python } from './processes.ts'
import { startRabbitMq } from './rabbitmq.ts'
import { type RedisServer, startRedis, temporaryFolder } from './servers.ts'

/** A broker of one test alone, with nobody on it yet. */
export interface TestBroker {
  readonly name: string
  /** For `broker`. */
  readonly url: string
  /** For `backend`: a result backend that comes and goes with the broker. */
  readonly backend: string
  /** Puts raw bytes where a producer's message would lie, the first first; whatever they are. */
  push(queue: string, ...raw: (string | Buffer)[]): Promise<void>
  /** How many messages wait in a queue, at any priority. */
  waiting(queue: string): Promise<number>
  /** How many messages are claimed and not settled: ours, and Python's where the broker knows of them. */
  held(): Promise<number>
  /** The ids of the tasks whose messages a worker of ours of this node name has claimed and not settled. */
  heldBy?(node: string): Promise<string[]>
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
    /** A result, what follows from it and the acknowledgement can be one step. */
    readonly oneStep: boolean
  }
  /**
   * Transport options, for both sides, with which a Python worker takes what was claimed that many seconds ago for lost,
   * and looks for it each second.
   */
  impatience(seconds: number): Record<string, number>
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

/** Starts a RabbitMQ as a broker, and a redis-server for the results. */
export async function startRabbitMqBroker(): Promise<TestBroker> {
  const [server, results] = await Promise.all([startRabbitMq(), startRedis()])
  const stop = async (): Promise<void> => {
    await Promise.all([server.stop(), results.stop()])
  }
  afterTest(stop)
  const waiting = async (queue: string): Promise<number> => (await server.queues()).get(queue)?.ready ?? 0
  return {
    name: 'RabbitMQ',
    url: server.url,
    backend: `${results.url}/1`,
    async push(queue, ...raw) {
      await fed([python(), ['-c', PUBLISH, server.url, queue]], framed(raw))
    },
    waiting,
    async held() {
      const counts = [...(await server.queues()).values()]
      return counts.reduce((sum, { unacknowledged }) => sum + unacknowledged, 0)
    },
    kill: () => server.kill(),
    start: () => server.start(),
    stop,
  }
}

/** Every broker that there is. */
export const brokers: readonly BrokerKind[] = [
  {
    name: 'Redis',
    has: { python: true, pythonRecovers: true, server: true, oneStep: true },
    impatience: (seconds) => ({
      visibility_timeout: seconds,
      unacked_restore_interval: 1,
      // kombu looks only every tenth time, unless it is told otherwise.
      unacked_restore_throttle: 1,
    }),
    start: startRedisBroker,
  },
  {
    name: 'SQLite',
    has: { python: true, pythonRecovers: false, server: false, oneStep: false },
    impatience: () => ({}),
    start: startSqliteBroker,
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

/**
 * What a producer of another kind would put into a queue of RabbitMQ: an envelope of kombu's virtual transports is unwrapped, as AMQP
 * has its own; anything else is a body that says it is JSON.
 */
const PUBLISH = `
import base64, json, sys
from kombu import Connection, Queue
read = sys.stdin.buffer.read
with Connection(sys.argv[1]) as connection:
    channel = connection.channel()
    name = sys.argv[2]
    Queue(name, exchange=name, routing_key=name, channel=channel).declare()
    while size := read(4):
        raw = read(int.from_bytes(size, 'big'))
        body, headers, properties = raw, {}, {'content_type': 'application/json', 'content_encoding': 'utf-8'}
        try:
            envelope = json.loads(raw)
            given = envelope['properties']
            body = envelope['body'].encode()
            if given.get('body_encoding') == 'base64':
                body = base64.b64decode(body, validate=True)
            headers = envelope['headers']
            properties = {k: v for k, v in given.items() if k not in ('delivery_info', 'delivery_tag', 'body_encoding')}
            properties.update(content_type=envelope['content-type'], content_encoding=envelope['content-encoding'])
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            body, headers, properties = raw, {}, {'content_type': 'application/json', 'content_encoding': 'utf-8'}
        message = channel.prepare_message(body, headers=headers, properties={k: v for k, v in properties.items() if v is not None})
        channel.basic_publish(message, exchange='', routing_key=name)`
