import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

import { expect, test } from 'vitest'
import { callsInBothDirections } from '../support/interop.ts'
import { python } from '../support/processes.ts'
import { startRedis } from '../support/servers.ts'

callsInBothDirections(
  'Redis',
  async () => {
    const server = await startRedis()
    return { broker: `${server.url}/0`, backend: `${server.url}/1`, stop: () => server.stop() }
  },
  // A Redis that is killed: __test__/reliability/restarts.test.ts.
  { mostUrgent: 0, restarts: false },
)

test('kombu sweeps for what was abandoned as seldom as the documentation says', async () => {
  const source = `
from kombu.transport.redis import Channel
print(Channel.unacked_restore_interval * Channel.unacked_restore_throttle)
`
  const { stdout } = await promisify(execFile)(python(), ['-c', source])
  const page = await readFile(join(import.meta.dirname, '..', '..', 'docs', 'reliability.md'), 'utf8')
  expect(page).toContain(`**every ${stdout.trim()} seconds, whether it is idle or\nbusy**`)
})
