/** A RabbitMQ of the benchmark's own. */

import { spawn, spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { Running } from '../../__test__/support/processes.ts'
import { freePort, leashed, temporaryFolder } from '../../__test__/support/servers.ts'
import { until } from '../../__test__/support/wait.ts'

export interface RabbitServer {
  readonly url: string
  readonly version: string
  stop(): Promise<void>
}

/** Debian's own program, and not the wrapper on the path, which changes the user. */
const PROGRAMS = ['/usr/lib/rabbitmq/bin/rabbitmq-server', 'rabbitmq-server']
const PATIENCE = 60

function connects(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1')
    socket.once('error', () => resolve(false))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
}

/** Starts one on free ports, with a folder and a node name of its own. */
export async function startRabbit(): Promise<RabbitServer> {
  const folder = temporaryFolder()
  const [port, distribution, names] = [await freePort(), await freePort(), await freePort()]
  const configuration = [
    `listeners.tcp.1 = 127.0.0.1:${port}`,
    'loopback_users = none',
    'log.console = true',
    'log.console.level = warning',
    'disk_free_limit.absolute = 50MB',
  ]
  writeFileSync(join(folder, 'rabbitmq.conf'), `${configuration.join('\n')}\n`)
  writeFileSync(join(folder, 'enabled_plugins'), '[].\n')
  const env = {
    ...process.env,
    HOME: folder,
    ERL_EPMD_ADDRESS: '127.0.0.1',
    ERL_EPMD_PORT: String(names),
    RABBITMQ_NODENAME: `bench${port}@localhost`,
    RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
    RABBITMQ_DIST_PORT: String(distribution),
    RABBITMQ_MNESIA_BASE: join(folder, 'mnesia'),
    RABBITMQ_LOG_BASE: join(folder, 'log'),
    RABBITMQ_CONFIG_FILE: join(folder, 'rabbitmq.conf'),
    RABBITMQ_ADVANCED_CONFIG_FILE: join(folder, 'advanced.config'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, 'enabled_plugins'),
    RABBITMQ_GENERATED_CONFIG_DIR: join(folder, 'generated'),
    RABBITMQ_PID_FILE: join(folder, 'pid'),
    RABBITMQ_CONF_ENV_FILE: '/dev/null',
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}',
  }
  const start = (command: string, args: string[]): Running =>
    new Running(spawn(...leashed(command, args), { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] }))
  // Erlang would start this in the background, where it outlives everybody.
  const epmd = start('epmd', ['-port', String(names), '-address', '127.0.0.1'])
  await until(PATIENCE, 'epmd', () => connects(names))
  const server = start(PROGRAMS.find((path) => existsSync(path)) ?? 'rabbitmq-server', [])
  await until(
    PATIENCE,
    'RabbitMQ',
    async () => {
      if (!server.isRunning) throw new Error(`rabbitmq-server ended:\n${server.output}`)
      return connects(port)
    },
    () => server.output,
  )
  return {
    url: `amqp://guest:guest@127.0.0.1:${port}/%2f`,
    version: versionOf(),
    async stop() {
      await server.end('SIGTERM')
      await epmd.end('SIGTERM')
    },
  }
}

/** As dpkg knows it, which answers at once. */
function versionOf(): string {
  const query = ['-W', '-f', '${Version}', 'rabbitmq-server']
  const found = spawnSync('dpkg-query', query, { encoding: 'utf8' })
  return found.status === 0 ? found.stdout.replace(/-.*/, '') : 'of unknown version'
}
