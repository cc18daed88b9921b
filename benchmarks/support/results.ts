/** What a run of `npm run bench` found. */

import type { Figure, Measurement, Sample, UNITS } from './contender.ts'
import type { Load } from './load.ts'
import { type Rates, summarize } from './rates.ts'
import type { Of, Target } from '../targets.ts'

/** One run of a contender, or why there is nothing of it. */
export interface Run {
  round: number
  sample?: Sample
  error?: string
  /** Null where the system does not tell. */
  load: Load | null
  /** Seconds, with everything around the measurement. */
  took: number
}

export interface Cell {
  measurement: string
  contender: string
  title: string
  label: string
  unit: keyof typeof UNITS
  runs: Run[]
}

export function cellsOf(measurements: readonly Measurement[]): Map<string, Cell> {
  const cells = new Map<string, Cell>()
  for (const { name, title, unit, contenders } of measurements) {
    for (const contender of contenders) {
      const cell = {
        measurement: name,
        contender: contender.name,
        title,
        label: contender.label,
        unit,
        runs: [],
      }
      cells.set(`${name}/${contender.name}`, cell)
    }
  }
  return cells
}

/** The figure of each round that has one. */
export function figures(cell: Cell | undefined, figure?: Figure): Map<number, number> {
  const found = new Map<number, number>()
  for (const { round, sample } of cell?.runs ?? []) {
    const value = figure === undefined ? sample?.value : sample?.figures?.[figure]
    if (value !== undefined && value !== null) found.set(round, value)
  }
  return found
}

export function summaryOf(cell: Cell, figure?: Figure): Rates | null {
  const found = [...figures(cell, figure).values()]
  return found.length === 0 ? null : summarize(found)
}

/** A target beside what was found. */
export interface Verdict {
  name: string
  wanted: Target['wanted']
  /** A ratio of each round, or the figure itself. */
  found: Rates
  isRatio: boolean
  of: Of
  /** With whom it was compared: the best of those the target names. */
  to: Of | null
  held: boolean
}

/** Null when this run does not say. */
export function judge(target: Target, cells: ReadonlyMap<string, Cell>): Verdict | null {
  const of = ({ cell, figure }: Of): Map<number, number> => figures(cells.get(cell), figure)
  const ours = of(target.of)
  const verdict = (found: number[], to: Of | null): Verdict | null => {
    if (found.length === 0) return null
    const rates = summarize(found)
    const { wanted, name } = target
    const held = 'atLeast' in wanted ? rates.median >= wanted.atLeast : rates.median <= wanted.atMost
    return { name, wanted, found: rates, isRatio: to !== null, of: target.of, to, held }
  }
  if (target.to === undefined) return verdict([...ours.values()], null)
  const others = target.to.map((other) => ({ other, found: of(other) }))
  // Which is the best is not known before all of them were measured.
  if (others.some(({ found }) => found.size === 0)) return null
  const best = others.toSorted(
    (a, b) => summarize([...b.found.values()]).median - summarize([...a.found.values()]).median,
  )[0]
  if (best === undefined) return null
  const paired = [...ours].flatMap(([round, value]) => {
    const other = best.found.get(round)
    return other === undefined ? [] : [value / other]
  })
  return verdict(paired, best.other)
}
