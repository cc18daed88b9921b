import { isDictionary } from './parse.ts'
import { snakeCase } from './names.ts'

/** What stands for a secret. */
export const MASK = '********'

/** Names whose values are secrets, as in Celery's report: it is generous rather than exact. */
const SECRET_NAME = /API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI/i

const SECRET_PARAMETER = /([?&](?:[^=&#;]*(?:password|passwd|secret|token)[^=&#;]*|sig)=)[^&#;]*/gi
const SECRET_PART = /((?:^|;)\s*(?:AccountKey|SharedAccessSignature)\s*=)[^;]*/gi

function maskUser(userAndPassword: string): string {
  const colon = userAndPassword.indexOf(':')
  return colon < 0 ? userAndPassword : `${userAndPassword.slice(0, colon)}:${MASK}`
}

/** `user:secret@a;user:secret@b`, where each host may have a password of its own, or one password may hold `;`. */
function maskAuthority(authority: string): string {
  const separator = authority.includes(';') ? ';' : ','
  const servers = authority.split(separator)
  const severalServers = servers.every((server) =>
    server.includes('@') ? server.slice(0, server.lastIndexOf('@')).includes(':') : !server.startsWith(':'),
  )
  if (servers.length > 1 && severalServers) return servers.map(maskServer).join(separator)
  return maskServer(authority)
}

function maskServer(server: string): string {
  const at = server.lastIndexOf('@')
  return at < 0 ? server : `${maskUser(server.slice(0, at))}${server.slice(at)}`
}

/** The URL, or the list of URLs with `;` between them, without its passwords. Text that is no URL is returned as it is. */
export function maskUrl(url: string): string {
  const scheme = url.indexOf('://')
  if (scheme < 0) return url
  const parts = url.split(';')
  if (parts.slice(1).some((part) => part.includes('://'))) {
    return parts.map((part) => maskUrl(part.trim())).join(';')
  }
  const start = scheme + 3
  const rest = url.slice(start)
  if (url.startsWith('azureblockblob://')) {
    return url.slice(0, start) + rest.replace(SECRET_PART, `$1${MASK}`).replace(SECRET_PARAMETER, `$1${MASK}`)
  }
  const query = rest.search(/[?#]/)
  const beforeQuery = query < 0 ? rest : rest.slice(0, query)
  const slash = beforeQuery.indexOf('/')
  // A password with a `/` that is not escaped puts the `@` behind the first slash: mask that too.
  const end = slash < 0 || beforeQuery.lastIndexOf('@') > slash ? beforeQuery.length : slash
  const afterAuthority = rest.slice(end).replace(SECRET_PARAMETER, `$1${MASK}`)
  return url.slice(0, start) + maskAuthority(rest.slice(0, end)) + afterAuthority
}

/** Whether the value of this name is a secret. */
export function isSecretName(name: string): boolean {
  return SECRET_NAME.test(snakeCase(name))
}

/** The value as it may be shown: secrets by name are masked, also inside of it, and URLs lose their passwords. */
export function censor(name: string, value: unknown): unknown {
  if (isDictionary(value)) {
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, censor(key, each)]))
  }
  if (value === null || value === undefined) return value
  if (isSecretName(name)) return MASK
  if (typeof value === 'string') return maskUrl(value)
  if (Array.isArray(value)) return value.map((each: unknown) => censor(name, each))
  return value
}
