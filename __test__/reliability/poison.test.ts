import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { brokers } from '../support/brokers.ts'
import { fleet, nodeTasks } from '../support/fleet.ts'
import { celeriac, type Running } from '../support/processes.ts'
import { deadList, deadOutput } from '../support/reliability/dead.ts'
import { rawTask } from '../support/reliability/messages.ts'
import { until } from '../support/wait.ts'

const MAX_DELIVERIES = 3

/** What a message says once it was given out again; everything else keeps its bytes. */
const MARK = ', "redelivered": true'

describe.each(brokers)('$name', (kind) => {
  test('a task that kills its worker each time fails and is kept, and those held beside it run once', async () => {
    const broker = await kind.start()
    const nodes = fleet(broker)
    const poison = { id: randomUUID(), task: 'node.crash' }
    const raw = rawTask(poison)
    const beside = Array.from({ length: 12 }, () => randomUUID())
    const env = {
      CELERY_BROKER_URL: broker.url,
      CELERY_RESULT_BACKEND: broker.backend,
      LEDGER: nodes.ledger.path,
      WORKER_LEASE: '2',
      MAX_DELIVERIES: String(MAX_DELIVERIES),
    }
    // One at a time, and all of the others held by whoever runs the poison.
    const args = ['-c', '1', '--prefetch-multiplier', '20']
    await broker.push('node', raw, ...beside.map((id) => rawTask({ task: 'node.work', id, args: [5] })))

    // Whoever runs workers starts another when one has died.
    const workers: Running[] = []
    const over = new AbortController()
    const supervision = (async () => {
      while (!over.signal.aborted && workers.length < 2 * MAX_DELIVERIES) {
        // It may die before it has said that it is ready.
        const worker = celeriac(['-A', nodeTasks, 'worker', '-l', 'info', '-Q', 'node', ...args], { env })
        workers.push(worker)
        await worker.finished
      }
    })()
    const result = nodes.app.AsyncResult(poison.id)
    await Promise.race([
      result.get({ timeout: 120 }).catch(() => {}),
      supervision.then(() => Promise.reject(new Error(`${workers.length} workers died`))),
    ])
    await nodes.ledger.until(60, 'the tasks beside it', () =>
      beside.every((id) => nodes.ledger.ended.has(id)),
    )
    over.abort()

    await expect(result.get()).rejects.toMatchObject({ type: 'WorkerLostError' })
    expect(nodes.ledger.runsOf(poison.id)).toHaveLength(MAX_DELIVERIES)
    const dead = workers.filter(({ child }) => child.signalCode === 'SIGKILL')
    expect(dead).toHaveLength(MAX_DELIVERIES)
    // Of those beside it each ran once, and in the worker that survived.
    expect(
      nodes.ledger.runs
        .filter(({ id }) => id !== poison.id)
        .map(({ id }) => id)
        .toSorted(),
    ).toEqual(beside.toSorted())

    const [letter, ...others] = await deadList(broker)
    expect(others).toEqual([])
    expect(letter).toMatchObject({ reason: 'poison', queue: 'node', task: poison.task, taskId: poison.id })
    const kept = (await deadOutput(broker, 'show', letter?.id as string, '--raw')).toString()
    const asKept = (text: string): string => broker.asKept(Buffer.from(text)).toString()
    expect(asKept(kept.replaceAll(MARK, ''))).toBe(asKept(raw))
    const lines = workers.flatMap(({ output }) => output.split('\n'))
    const errors = lines.filter((line) => line.includes(poison.id) && !line.includes('INFO'))
    expect(errors, errors.join('\n')).toHaveLength(1)
    await workers.at(-1)?.end()

    // Mended, it is sent again: it begins anew, and its result replaces the failure.
    await nodes.nodeWorker({ args, env: { ...env, UNHURT: '1' } })
    await deadOutput(broker, 'replay', letter?.id as string)
    await until(60, 'the result instead of the failure', () => nodes.app.AsyncResult(poison.id).successful())
    expect(nodes.ledger.runsOf(poison.id)).toHaveLength(MAX_DELIVERIES + 1)
    expect(await deadList(broker)).toEqual([])
    await nodes.stop()
    await broker.stop()
  })
})
