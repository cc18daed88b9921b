import { hostname as systemHostname } from 'node:os'

import { CeleriacError } from '../errors.ts'

/** Name and host of a node: `worker1` and `example.com` of `worker1@example.com`; the name may be missing. */
export function splitNodeName(nodeName: string): { name: string | null; host: string } {
  const at = nodeName.indexOf('@')
  return at < 0
    ? { name: null, host: nodeName }
    : { name: nodeName.slice(0, at), host: nodeName.slice(at + 1) }
}

/**
 * The node name that `-n` stands for: `w1@%h` is `w1` on this host, what has no `@` is a host, and without it all it
 * is `celery@%h`. `%h` is the host, `%n` its first part, `%d` the rest (`celery.utils.nodenames`).
 */
export function nodeName(given = 'celery@%h', host: string = systemHostname()): string {
  const { name, host: own } = splitNodeName(format(given, { h: host, n: firstPart(host), d: domain(host) }))
  return `${name || 'celery'}@${own || host}`
}

/**
 * A path with the parts of a node name: `%n` its name, `%h` its host, `%d` the domain of the host, `%p` all of it.
 * `%i` and `%I`, numbers of processes, are 0 and nothing: this process is its own pool.
 */
export function expandNodeName(path: string, node: string): string {
  const { name, host } = splitNodeName(node)
  return format(path, { h: host, n: name ?? firstPart(host), d: domain(host), p: node, i: '0', I: '' })
}

function firstPart(host: string): string {
  return host.split('.')[0] ?? host
}

function domain(host: string): string {
  return host.split('.').slice(1).join('.')
}

function format(text: string, fields: Readonly<Record<string, string>>): string {
  return text.replace(/%(.)/g, (whole, field: string) => {
    if (field === '%') return '%'
    const value = Object.hasOwn(fields, field) ? fields[field] : undefined
    if (value !== undefined) return value
    const known = Object.keys(fields).map((name) => `%${name}`)
    throw new CeleriacError(
      'ERR_CELERIAC_INVALID_ARGUMENT',
      `unknown ${whole} in '${text}': there are ${known.join(', ')}`,
    )
  })
}
