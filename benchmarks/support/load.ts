/** What else the machine does while something is measured, as Linux tells it. */

import { readdirSync, readFileSync } from 'node:fs'
import { loadavg } from 'node:os'

/** The load by others around one measurement; processors are a number of them: 0.5 is half of one. */
export interface Load {
  /** The load average of the last minute, before. */
  average: number
  /** Processors that other programs used just before. */
  before: number
  /** Processors that other programs used meanwhile. */
  during: number
  /** Processors that the machine's host did not give meanwhile. */
  stolen: number
}

/** Of the whole machine and of this process with all it started, in ticks of 10 ms. */
interface Ticks {
  at: number
  busy: number
  stolen: number
  own: number
}

const TICKS = 100
const BEFORE_MS = 250

/** Runs `work`, and tells the load by others; without the figures where the system does not have them. */
export async function withLoad<T>(work: () => Promise<T>): Promise<[T, Load | null]> {
  const [average = 0] = loadavg()
  const idle = ticks()
  if (idle === null) return [await work(), null]
  await new Promise((resolve) => setTimeout(resolve, BEFORE_MS))
  const begin = ticks() ?? idle
  const found = await work()
  const end = ticks() ?? begin
  return [
    found,
    { average, before: others(idle, begin), during: others(begin, end), stolen: share(begin, end, 'stolen') },
  ]
}

function others(from: Ticks, to: Ticks): number {
  return Math.max(0, share(from, to, 'busy') - share(from, to, 'own'))
}

function share(from: Ticks, to: Ticks, what: 'busy' | 'own' | 'stolen'): number {
  return (to[what] - from[what]) / TICKS / ((to.at - from.at) / 1000)
}

function ticks(): Ticks | null {
  try {
    const line = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0] ?? ''
    const [user = 0, nice = 0, system = 0, , , irq = 0, soft = 0, stolen = 0] = line
      .split(/\s+/)
      .slice(1)
      .map(Number)
    return { at: performance.now(), busy: user + nice + system + irq + soft, stolen, own: ownTicks() }
  } catch {
    return null
  }
}

/** Of a process: who started it, and the time that it and its children that ended have used. */
function processTicks(pid: string): { parent: number; ticks: number } | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name, in parentheses, may have spaces.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    const times = fields.slice(11, 15).map(Number)
    return { parent: Number(fields[1]), ticks: times.reduce((sum, each) => sum + each, 0) }
  } catch {
    // It ended meanwhile.
    return null
  }
}

function ownTicks(): number {
  return descendants(process.pid).reduce((sum, pid) => sum + (processTicks(String(pid))?.ticks ?? 0), 0)
}

/** A process and all that it started, directly or not. */
export function descendants(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const found = processTicks(name)
    if (found === null) continue
    const siblings = children.get(found.parent) ?? []
    siblings.push(Number(name))
    children.set(found.parent, siblings)
  }
  const all = [root]
  for (const pid of all) all.push(...(children.get(pid) ?? []))
  return all
}
