import { callsInBothDirections } from '../support/interop.ts'
import { startRabbitMqBroker } from '../support/brokers.ts'
import { startRabbitMq } from '../support/rabbitmq.ts'

callsInBothDirections('RabbitMQ', async () => {
  const { url, backend, stop } = await startRabbitMqBroker()
  return { broker: url, backend, stop }
})

callsInBothDirections(
  'RabbitMQ with rpc://',
  async () => {
    const { url, stop } = await startRabbitMq()
    return { broker: url, backend: 'rpc://', stop }
  },
  { sharedResults: false },
)
