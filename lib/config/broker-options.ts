import { hostname } from 'node:os'

import type { Settings } from './conf.ts'
import { withSnakeCaseKeys } from './names.ts'
import { resolveBroker } from './resolve.ts'
import { CeleriacError } from '../errors.ts'
import type { NativeBrokerOptions } from '../native.ts'
import { encodeJson } from '../serialization/encode.ts'

/** kombu's names for AMQP, each with TLS or without. */
const AMQP = /^(?:amqps?|pyamqp|librabbitmq):\/\//i

/** Whether messages go to RabbitMQ. */
export function isAmqp(conf: Settings): boolean {
  return AMQP.test(resolveBroker(conf).write[0])
}

/** How the core is to open the broker that the settings name. `replyTo` goes into every task message, for `rpc://`. */
export function brokerOptions(conf: Settings, replyTo: string): NativeBrokerOptions {
  const { read, write } = resolveBroker(conf)
  const speaksAmqp = AMQP.test(write[0])
  const options = {
    ...(speaksAmqp ? amqpOptions(conf) : {}),
    ...withSnakeCaseKeys(conf.brokerTransportOptions as Record<string, unknown>),
    ...(conf.brokerUseSsl ? { ssl: conf.brokerUseSsl } : {}),
    ...(speaksAmqp && read.join(';') !== write.join(';') ? { read_url: read.join(';') } : {}),
  }
  return {
    // Only the transport of RabbitMQ fails over; the others know one server.
    url: speaksAmqp ? write.join(';') : write[0],
    transportOptions: encodeJson(options, 'brokerTransportOptions'),
    connectTimeoutMs: 1000 * (conf.brokerConnectionTimeout ?? 4),
    publishTimeoutMs: 1000 * conf.publishTimeout,
    origin: `gen${process.pid}@${hostname()}`,
    replyTo,
  }
}

function amqpOptions(conf: Settings): Record<string, unknown> {
  const { brokerFailoverStrategy: strategy } = conf
  if (typeof strategy === 'function') {
    throw new CeleriacError(
      'ERR_CELERIAC_NOT_SUPPORTED',
      'brokerFailoverStrategy is a function; the core knows round-robin and shuffle',
    )
  }
  return {
    // What the query of a URL says wins, as in kombu, which the core sees to.
    default_heartbeat: conf.brokerHeartbeat ?? 0,
    ...(conf.brokerLoginMethod === null ? {} : { login_method: conf.brokerLoginMethod }),
    ...(strategy === null ? {} : { failover_strategy: strategy }),
  }
}
