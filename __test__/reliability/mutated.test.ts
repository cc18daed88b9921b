import { expect, test } from 'vitest'
import { type BrokerKind, brokers } from '../support/brokers.ts'
import { Random } from '../support/random.ts'
import type { DeadList } from '../support/reliability/dead-list.ts'
import { figure } from '../support/reliability/figures.ts'
import { HostileWorkers } from '../support/reliability/hostile-worker.ts'
import { bytesOf, protocol2 } from '../support/reliability/message-trees.ts'
import { Mutator } from '../support/reliability/mutations.ts'
import { readTask, wellFormed } from '../support/reliability/read-task.ts'
import { linesOfLog } from '../support/reliability/worker-log.ts'
import { until } from '../support/wait.ts'

const QUEUE = 'tested'
/** A good task follows each of these many mutated messages. */
const CHUNK = 1000

// To look at one letter RabbitMQ hands out all those before it.
const counts: Readonly<Record<string, number>> = { Redis: 100_000, RabbitMQ: 2000 }

for (const kind of brokers) {
  const count = counts[kind.name] ?? 10_000
  test(
    `each of ${count} mutated messages on ${kind.name} runs or is kept, and every good task among them runs`,
    { timeout: 600_000 },
    async () => {
      expect(await survive(kind, count)).toEqual([])
    },
  )
}

/** Pushes them and lets a worker take them; the good tasks that did not run, or more than once. */
async function survive(kind: BrokerKind, count: number): Promise<string[]> {
  const random = new Random()
  const broker = await kind.start()
  const pushed = new Bag()
  const good: string[] = []
  const mutator = new Mutator(random, {
    // Of another name, so that no mutated callback comes to the queue that is counted.
    queue: 'elsewhere',
    followUps: 'follow-ups',
    tasks: ['hostile.late', 'hostile.early'],
  })
  for (let at = 0; at < count; at += CHUNK) {
    const messages = Array.from({ length: Math.min(CHUNK, count - at) }, () => mutator.next())
    for (const message of messages) pushed.add(broker.asKept(message))
    const id = `good-${at}`
    good.push(id)
    await broker.push(QUEUE, ...messages, bytesOf(protocol2({ task: 'hostile.good', id, queue: QUEUE })))
  }

  const workers = new HostileWorkers(broker)
  const dead = workers.deadList()
  const { ledger } = workers
  const began = performance.now()
  const worker = workers.start(QUEUE)
  const account = (): Promise<Account> => accountOf(dead, workers)
  let drained = 0
  let last: unknown
  await until(
    60,
    'an empty queue and the end of everything that was in it',
    async () => {
      expect(worker.isRunning, worker.output).toBe(true)
      if ((await broker.waiting(QUEUE)) > 0) return false
      drained ||= performance.now()
      // What is held in the end is what has an ETA far away.
      const [now, held] = [await account(), await broker.held()]
      last = { ...now.counts, held }
      return now.total + held === count
    },
    () => `\nwhat became of ${count}: ${JSON.stringify(last)}\n${worker.output.slice(-4000)}`,
  )
  const seconds = (drained - began) / 1000

  // Good tasks that come now run too: nothing hangs that nobody saw.
  await broker.push(QUEUE, bytesOf(protocol2({ task: 'hostile.good', id: 'last', queue: QUEUE })))
  good.push('last')
  await ledger.until(30, 'the last good task', () => ledger.after('good').includes('"last"'))

  // A worker that ends hands back what it holds until a time far away.
  expect(await worker.end('SIGTERM')).toMatchObject({ code: 0, signal: null })
  expect(await broker.held()).toBe(0)
  const handedBack = await broker.waiting(QUEUE)
  const end = await account()
  figure(
    `${kind.name}: ${count} mutated messages, the start of the worker included`,
    `${seconds.toFixed(1)} s (${Math.round(count / seconds)}/s): ${JSON.stringify({ ...end.counts, handedBack })}`,
  )
  expect(end.total + handedBack).toBe(count)

  // What is kept has its bytes, and what is not kept is what ran.
  const notRun = (await dead.read()).filter(({ reason }) => reason !== 'rejected')
  const strays = notRun.filter(({ raw }) => !pushed.take(broker.asKept(raw)))
  expect(
    strays.map(({ raw }) => raw.toString('latin1')),
    'what nobody pushed',
  ).toEqual([])
  const seen = new Bag()
  for (const id of end.ids) seen.add(Buffer.from(id))
  let odd = 0
  const back: Buffer[] = []
  // Several may have one id, and of those it is the ones with an ETA far away that come back.
  for (const raw of pushed
    .all()
    .toSorted((one, other) => Number(isFarAway(one)) - Number(isFarAway(other)))) {
    const id = readTask(raw)?.id
    if (id === undefined) odd += 1
    else if (!seen.take(Buffer.from(id))) back.push(raw)
  }
  const ofNobody = seen.all().map(String)
  for (const raw of back) expect(isFarAway(raw), raw.toString()).toBe(true)
  expect(back.length + odd, `ids that nobody sent: ${ofNobody.join(' ')}`).toBe(handedBack + ofNobody.length)

  const runs = workers.good
  await workers.stop()
  await broker.stop()
  return good.filter((id) => runs.filter((other) => other === id).length !== 1)
}

/** Whether a message has an ETA that does not come while the test runs. */
function isFarAway(raw: Buffer): boolean {
  return Date.parse(readTask(raw)?.eta ?? '') > Date.now()
}

/** What became of the mutated messages, as far as it is known. */
interface Account {
  total: number
  counts: Record<string, number>
  /** The ids of those that are not in the dead list. */
  ids: string[]
}

async function accountOf(dead: DeadList, { ledger, logFile }: HostileWorkers): Promise<Account> {
  const counts: Record<string, number> = {}
  const ids = ledger.after('ran').map((id) => wellFormed(JSON.parse(id) as string))
  counts['ran'] = ids.length
  let total = ids.length
  for (const { reason } of await dead.list()) {
    counts[reason] = (counts[reason] ?? 0) + 1
    // Its body ran, and what it sent on was refused; or it is counted below.
    if (reason !== 'rejected') total += 1
  }
  counts['discarded'] = 0
  counts['unreadable'] = 0
  for (const line of linesOfLog(logFile)) {
    // Whatever comes in, it is a mistake of the message's and not of ours.
    expect(line.level, JSON.stringify(line)).not.toBe('CRITICAL')
    const what = line.message.startsWith('Discarding revoked task')
      ? 'discarded'
      : line.message.includes('] cannot be read: ')
        ? 'unreadable'
        : undefined
    if (what === undefined) continue
    counts[what] = (counts[what] ?? 0) + 1
    total += 1
    ids.push(line.task_id ?? '')
  }
  return { total, counts, ids }
}

/** Equal things as often as they were added. */
class Bag {
  readonly #counts = new Map<string, number>()

  add(bytes: Buffer): void {
    const key = bytes.toString('latin1')
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
  }

  /** False when it is not there, or not there so often. */
  take(bytes: Buffer): boolean {
    const key = bytes.toString('latin1')
    const count = this.#counts.get(key) ?? 0
    this.#counts.set(key, Math.max(0, count - 1))
    return count > 0
  }

  all(): Buffer[] {
    return [...this.#counts].flatMap(([key, count]) =>
      Array.from({ length: count }, () => Buffer.from(key, 'latin1')),
    )
  }
}
