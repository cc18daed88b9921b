import { callsInBothDirections } from '../support/interop.ts'
import { startRabbitMqBroker } from '../support/brokers.ts'

callsInBothDirections(
  'RabbitMQ',
  async () => {
    const { url, backend, stop } = await startRabbitMqBroker()
    return { broker: url, backend, stop }
  },
  { mostUrgent: 9, queueMaxPriority: 10 },
)
