import { brokerOptions } from '../config/broker-options.ts'
import { resolveResultBackend } from '../config/resolve.ts'
import { withSnakeCaseKeys } from '../config/names.ts'
import type { Settings } from '../config/conf.ts'
import { DisabledResultStore } from './disabled.ts'
import { NativeResultStore } from './native.ts'
import type { ResultStore } from './store.ts'

/**
 * Result stores in TypeScript by URL scheme, such as `mongodb`. All other schemes are the core's, which refuses those
 * that it does not know. A store is one line here: docs/adding-a-result-store.md.
 */
const stores: Readonly<Record<string, (url: string, conf: Settings) => ResultStore>> = {}

/** The result store that the settings and the environment name; nothing is connected yet. `replyTo` is where `rpc://` listens. */
export function openResultStore(conf: Settings, replyTo: string): ResultStore {
  const url = resolveResultBackend(conf)
  if (url === null) return new DisabledResultStore()
  const scheme = url.slice(0, Math.max(0, url.indexOf('://')))
  const open = Object.hasOwn(stores, scheme) ? stores[scheme] : undefined
  if (open !== undefined) return open(url, conf)
  return new NativeResultStore(
    {
      url,
      options: JSON.stringify(scheme === RPC ? rpcOptions(conf, replyTo) : storeOptions(conf)),
      connectTimeoutMs: 1000 * (conf.redisSocketConnectTimeout ?? conf.brokerConnectionTimeout ?? 4),
    },
    () => ({ expires: conf.resultExpires, extended: conf.resultExtended }),
  )
}

function storeOptions(conf: Settings): Record<string, unknown> {
  const options = withSnakeCaseKeys(conf.resultBackendTransportOptions as Record<string, unknown>)
  if (conf.redisSocketTimeout !== null) options['socket_timeout'] ??= conf.redisSocketTimeout
  if (conf.redisBackendUseSsl) options['ssl'] = conf.redisBackendUseSsl
  return options
}

const RPC = 'rpc'

/** Whether results come as messages, so that somebody has to listen before the first task is sent. */
export function resultsAreMessages(conf: Settings): boolean {
  return resolveResultBackend(conf)?.startsWith(`${RPC}://`) ?? false
}

function rpcOptions(conf: Settings, replyTo: string): Record<string, unknown> {
  const { url, transportOptions } = brokerOptions(conf, replyTo)
  return {
    broker: url,
    broker_options: JSON.parse(transportOptions) as unknown,
    reply_to: replyTo,
    ...(conf.resultExpires === null ? {} : { expires: conf.resultExpires }),
    persistent: conf.resultPersistent ?? false,
  }
}
