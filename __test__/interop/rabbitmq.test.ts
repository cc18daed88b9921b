import { callsInBothDirections } from '../support/interop.ts'
import { startRabbitMqBroker } from '../support/brokers.ts'

callsInBothDirections(
  'RabbitMQ',
  async () => {
    const { url, backend, python = {}, server, stop } = await startRabbitMqBroker()
    const restart = async (): Promise<void> => {
      await server.kill()
      await server.start()
    }
    return { broker: url, backend, python, restart, stop }
  },
  // The other way round than on Redis, as in Celery.
  { mostUrgent: 9, maxPriority: 9 },
)
