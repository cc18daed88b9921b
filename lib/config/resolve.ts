import { CeleriacError } from '../errors.ts'
import type { Environment, Settings } from './conf.ts'

/** The broker of an app that names none: a SQLite file in the working directory, in the layout of kombu's tables. */
export const EMBEDDED_BROKER = 'sqla+sqlite:///celeriac.db'

/** The result backend that belongs to it: the same file, in the layout of Celery's tables. */
export const EMBEDDED_RESULT_BACKEND = 'db+sqlite:///celeriac.db'

/** Where an app's broker is. */
export interface ResolvedBroker {
  /** Where to consume from; after the first come those to fail over to. */
  readonly read: readonly [string, ...string[]]
  /** Where to publish to; after the first come those to fail over to. */
  readonly write: readonly [string, ...string[]]
  /** Whether nobody named one, so that it is {@link EMBEDDED_BROKER}. */
  readonly isDefault: boolean
}

function present(value: string | readonly string[] | null): value is string | readonly string[] {
  return value !== null && value.length > 0
}

/**
 * The broker that the settings and the environment name; where they name none, the embedded one. Under
 * NODE_ENV=production that throws ERR_CELERIAC_NO_BROKER, because a forgotten variable must not become a file that
 * nobody reads.
 */
export function resolveBroker(conf: Settings, environment: Environment = process.env): ResolvedBroker {
  const { brokerUrl, brokerReadUrl, brokerWriteUrl } = conf
  const isDefault = !present(brokerUrl) && !(present(brokerReadUrl) && present(brokerWriteUrl))
  if (isDefault && environment['NODE_ENV'] === 'production') {
    throw new CeleriacError(
      'ERR_CELERIAC_NO_BROKER',
      'no broker is named, and NODE_ENV is production: set CELERY_BROKER_URL, the setting brokerUrl, or ' +
        `the option broker of the app; for a file in the working directory say ${EMBEDDED_BROKER}`,
    )
  }
  return {
    read: brokerUrls(conf, present(brokerReadUrl) ? brokerReadUrl : EMBEDDED_BROKER),
    write: brokerUrls(conf, present(brokerWriteUrl) ? brokerWriteUrl : EMBEDDED_BROKER),
    isDefault,
  }
}

function brokerUrls(conf: Settings, value: string | readonly string[]): readonly [string, ...string[]] {
  const urls = (typeof value === 'string' ? [value] : value)
    .flatMap((each) => each.split(';'))
    .map((each) => each.trim())
    .filter((each) => each !== '')
    .map((url) =>
      completeUrl(url.includes('://') ? url : `${conf.brokerTransport ?? 'amqp'}://${url}`, {
        user: conf.brokerUser,
        password: conf.brokerPassword,
        port: conf.brokerPort,
        path: conf.brokerVhost,
      }),
    )
  const [first = EMBEDDED_BROKER, ...others] = urls
  return [first, ...others]
}

interface UrlParts {
  readonly user: string | null
  readonly password: string | null
  readonly port: number | null
  readonly path: string | null
}

const SERVER_URL = /^([^:/?#]+:\/\/)(?:([^/?#]*)@)?([^/?#]*)(?:\/([^?#]*))?([?#].*)?$/s

/** Puts into a URL what it leaves out; what it says stays. URLs of files have none of these. */
function completeUrl(url: string, parts: UrlParts): string {
  const { user, password, port, path } = parts
  if (user === null && password === null && port === null && path === null) return url
  const match = SERVER_URL.exec(url)
  const [, scheme = '', login, host = '', givenPath, query = ''] = match ?? []
  if (match === null || (host === '' && givenPath)) return url
  const [givenUser, ...givenPassword] = (login ?? '').split(':')
  const userPart = givenUser || (user === null ? '' : encodeURIComponent(user))
  const passwordPart =
    givenPassword.length > 0
      ? givenPassword.join(':')
      : password === null
        ? undefined
        : encodeURIComponent(password)
  const loginPart =
    userPart === '' && passwordPart === undefined
      ? ''
      : `${userPart}${passwordPart === undefined ? '' : `:${passwordPart}`}@`
  const hostPart = /:\d+$/.test(host) || port === null ? host : `${host || 'localhost'}:${port}`
  const pathPart = givenPath || (path === null ? '' : encodeURIComponent(path))
  const slash = givenPath === undefined && pathPart === '' ? '' : '/'
  return `${scheme}${loginPart}${hostPart}${slash}${pathPart}${query}`
}

/**
 * The URL of the result backend, complete with what `redis…` and `databaseUrl` say; null where results are not kept.
 * Where nobody names one and the broker is the embedded one by default, it is {@link EMBEDDED_RESULT_BACKEND}, so that a
 * first `get()` works.
 */
export function resolveResultBackend(conf: Settings): string | null {
  const backend = conf.resultBackend
  if (backend === null || backend === '') {
    const broker = present(conf.brokerUrl) || (present(conf.brokerReadUrl) && present(conf.brokerWriteUrl))
    return broker ? null : EMBEDDED_RESULT_BACKEND
  }
  const url = backend.includes('://') ? backend : `${backend}://`
  const scheme = url.slice(0, url.indexOf('://'))
  const rest = url.slice(scheme.length + 3)
  switch (scheme) {
    case 'disabled':
      return null
    case 'redis':
    case 'rediss':
      return completeUrl(
        `${scheme}://${rest.startsWith('/') || rest === '' ? (conf.redisHost ?? 'localhost') : ''}${rest}`,
        {
          user: conf.redisUsername,
          password: conf.redisPassword,
          port: conf.redisPort,
          path: conf.redisDb === null ? null : String(conf.redisDb),
        },
      )
    case 'db':
    case 'database':
      if (rest !== '') return url
      if (conf.databaseUrl === null) break
      return `db+${conf.databaseUrl.replace(/^(db|database)\+/, '')}`
    case 'cache':
      return rest === '' && conf.cacheBackend !== null ? `cache+${conf.cacheBackend}` : url
    default:
      return url
  }
  throw new CeleriacError(
    'ERR_CELERIAC_INVALID_SETTING',
    `the setting resultBackend is ${JSON.stringify(backend)}, without a URL; set databaseUrl, or say db+sqlite:///results.db`,
  )
}
