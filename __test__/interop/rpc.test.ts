import { callsInBothDirections } from '../support/interop.ts'
import { startRabbitMq } from '../support/rabbitmq.ts'

callsInBothDirections(
  'RabbitMQ with rpc://',
  async () => {
    const { url, kill, start, stop } = await startRabbitMq()
    const restart = async (): Promise<void> => {
      await kill()
      await start()
    }
    return { broker: url, backend: 'rpc://', python: { broker_heartbeat: 2 }, restart, stop }
  },
  { mostUrgent: 9, maxPriority: 9, sharedResults: false },
)
