import { afterEach, describe, expect, test } from 'vitest'
import { type RedisBroker, startRedisBroker } from '../support/brokers.ts'
import { fleet, type Fleet } from '../support/fleet.ts'
import { figure } from '../support/reliability/figures.ts'
import { rawTask } from '../support/reliability/messages.ts'
import { until } from '../support/wait.ts'

/** Python's restore, as often as a test can wait for. */
const restoring = { visibility_timeout: 5, unacked_restore_interval: 1, unacked_restore_throttle: 1 }
/** Python workers of threads, which go on to claim while bodies run. */
const threads = (count: number): string[] => ['-P', 'threads', '-c', String(count)]

const ends: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end()
})

async function start(python: Record<string, unknown>): Promise<{ broker: RedisBroker; both: Fleet }> {
  const broker = await startRedisBroker()
  ends.push(() => broker.stop())
  const both = fleet(broker, { python })
  ends.push(() => both.stop())
  return { broker, both }
}

describe('beside Python', () => {
  for (const [who, timeout] of [
    ['Python restores', 3600],
    ['Python and ours restore', restoring.visibility_timeout],
  ] as const) {
    test(`what a killed Python worker held comes back while a Node worker drains another queue at full speed: ${who}`, async () => {
      const { broker, both } = await start({
        broker_transport_options: restoring,
        worker_prefetch_multiplier: 0,
      })
      const ids = Array.from({ length: 340 }, (_, index) => `held-${index}`)
      const victim = await both.pythonWorker({ queues: 'held', args: threads(1) })
      await broker.push(
        'held',
        ...ids.map((id) => rawTask({ task: 'node.work', id, queue: 'held', args: [100] })),
      )
      await until(30, 'the claim of all', async () => (await broker.waiting('held')) === 0)
      await until(30, 'the record of the last', async () => {
        return (await broker.held()) + both.ledger.ended.size >= ids.length
      })
      const due = Date.now() + 1000 * restoring.visibility_timeout
      await victim.end('SIGKILL')
      const before = both.ledger.runs.length
      const left = ids.filter((id) => !both.ledger.ended.has(id))
      expect(left.length).toBeGreaterThanOrEqual(300)

      // Another queue, never empty.
      const busy = (): Promise<void> =>
        broker.push(
          'busy',
          ...Array.from({ length: 20_000 }, () => rawTask({ task: 'node.add', queue: 'busy', args: [1, 2] })),
        )
      for (let batch = 0; batch < 5; batch++) await busy()
      await both.nodeWorker({
        queues: 'busy',
        settings: { brokerTransportOptions: { visibility_timeout: timeout } },
      })
      await both.pythonWorker({ queues: 'held', args: threads(20) })
      let drained = 0
      let waiting = await broker.waiting('busy')
      const began = Date.now()
      await until(60, 'every task that was held', async () => {
        const now = await broker.waiting('busy')
        drained += waiting - now
        waiting = now
        if (now < 40_000) {
          await busy()
          waiting += 20_000
        }
        return left.every((id) =>
          both.ledger.runsOf(id).some((run) => both.ledger.runs.indexOf(run) >= before),
        )
      })
      const rate = drained / ((Date.now() - began) / 1000)
      const begins = left.map((id) => both.ledger.runsOf(id).at(-1)?.began ?? 0)
      const watches = Number(
        /cmdstat_watch:calls=(\d+)/.exec(await broker.server.command('info', 'commandstats'))?.[1],
      )
      figure(
        `${who}: ${left.length} messages of a killed Python worker beside ${Math.round(rate)} tasks/s of ours`,
        `the first ${(Math.min(...begins) - due) / 1000} s after they were due, the last ${(Math.max(...begins) - due) / 1000} s; ` +
          `${watches} WATCHes`,
      )
      expect((Math.max(...begins) - due) / 1000).toBeLessThan(30)
    })
  }

  test('one Node worker and one Python worker share a queue by what they can do', async () => {
    const { broker, both } = await start({ broker_transport_options: restoring })
    const count = Number(process.env['C'] ?? 10)
    const milliseconds = Number(process.env['MS'] ?? 5)
    let sent = 0
    const send = async (rate: number, seconds: number): Promise<void> => {
      const began = performance.now()
      const total = rate * seconds
      const sending: Promise<unknown>[] = []
      for (let at = 0; at < total;) {
        const until = Math.min(total, Math.floor(((performance.now() - began) / 1000) * rate))
        for (; at < until; at++)
          sending.push(both.app.sendTask('node.work', [milliseconds], { queue: 'shared' }))
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
      await Promise.all(sending)
      sent += total
    }
    const share = async (what: string, rate: number, seconds: number, pids: [number, number] | number) => {
      const before = both.ledger.runs.length
      const t0 = Date.now()
      await send(rate, seconds)
      const sentAt = Date.now()
      await both.ledger.until(120, 'all', () => both.ledger.ended.size >= sent)
      const t1 = Date.now()
      const runs = both.ledger.runs.slice(before)
      const by = new Map<number, number>()
      for (const run of runs) by.set(run.process, (by.get(run.process) ?? 0) + 1)
      console.log(
        `SHARE ${what}: sent ${rate}/s for ${sentAt - t0} ms, ended in ${t1 - t0} ms (${Math.round((rate * seconds * 1000) / (t1 - t0))}/s)`,
        [...by].map(([process, n]) => `${process === pids ? 'node' : process}: ${n}`).join(' '),
      )
    }
    const node = await both
      .nodeWorker({ queues: 'shared', args: ['-c', String(count), '-l', 'warning'] })
      .catch((e) => {
        throw e
      })
    await share('node alone, as fast as it can', 6000, 1, node.child.pid ?? 0)
    await node.end()
    const python = await both.pythonWorker({ queues: 'shared', args: threads(count) })
    await share('python alone, as fast as it can', 3000, 1, 0)
    const node2 = await both.nodeWorker({ queues: 'shared', args: ['-c', String(count)] })
    for (const rate of [300, 600, 1000, 2000, 4000])
      await share(`both, ${rate}/s`, rate, 6, node2.child.pid ?? 0)
    await until(10, 'nothing held', async () => (await broker.held()) === 0)
    expect(python.child.exitCode).toBeNull()
  })
})
