import { expect, test } from 'vitest'
import { startVhostBroker } from '../support/brokers.ts'
import { figure } from '../support/reliability/figures.ts'
import { each, measureWaiting } from '../support/reliability/waiting.ts'

for (const [workers, queues] of [
  [1, 1],
  [20, 10],
] as const) {
  test(`${workers} workers that wait on ${queues} queues of RabbitMQ send nothing but signs of life, and each message is delivered once`, async () => {
    const broker = await startVhostBroker()
    const idleSeconds = 6
    const seen = await measureWaiting(
      broker.url,
      { workers, queues },
      { idleSeconds, rates: [{ rate: 50, messages: 100 }] },
    )
    // With a heartbeat of 4 s: a frame when half of it has passed without another, and a question each second whether the channel is there.
    const signs = ['heartbeat', 'basic.qos']
    expect([...seen.idle.keys()].filter((name) => !signs.includes(name))).toEqual([])
    const most = workers * seen.connections * (idleSeconds + 1)
    for (const name of signs) expect(seen.idle.get(name) ?? 0).toBeLessThanOrEqual(most)
    const [at] = seen.rates
    expect(at?.got.get('basic.deliver')).toBe(100)
    expect(at?.sent.get('basic.ack')).toBeLessThanOrEqual(100)
    const others = [...(at?.sent.keys() ?? [])].filter((name) => ![...signs, 'basic.ack'].includes(name))
    expect(others).toEqual([])
    figure(
      `RabbitMQ: ${workers} workers on ${queues} queues, ${seen.connections} connections each`,
      `idle they send ${JSON.stringify(Object.fromEntries(seen.idle))} in ${idleSeconds} s; ` +
        `at 50/s ${each(at?.got ?? new Map(), 'basic.deliver', 100)} deliveries and ` +
        `${each(at?.sent ?? new Map(), 'basic.ack', 100)} acknowledgements a message, p50 ${at?.p50} and p99 ${at?.p99} µs`,
    )
    await broker.stop()
  })
}
