import { callsInBothDirections } from '../support/interop.ts'
import { startRabbitMq } from '../support/rabbitmq.ts'

callsInBothDirections(
  'RabbitMQ with rpc://',
  async () => {
    const { url, stop } = await startRabbitMq()
    return { broker: url, backend: 'rpc://', python: { broker_heartbeat: 2 }, stop }
  },
  { sharedResults: false },
)
