import { callsInBothDirections } from '../support/interop.ts'
import { startRedis } from '../support/servers.ts'

callsInBothDirections(
  'Redis',
  async () => {
    const server = await startRedis()
    return { broker: `${server.url}/0`, backend: `${server.url}/1`, stop: () => server.stop() }
  },
  { mostUrgent: 0 },
)
