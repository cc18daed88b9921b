/** The tables: a short one for the README, and one with everything. */

import { FIGURES, type Figure, UNITS } from '../support/contender.ts'
import type { Machine } from '../support/machine.ts'
import type { Rates } from '../support/rates.ts'
import { PYTHON_POOLS } from '../support/programs.ts'
import { type Cell, summaryOf, type Verdict } from '../support/results.ts'
import { TARGETS } from '../targets.ts'

export interface Report {
  command: string
  /** The day, as 2026-11-21. */
  date: string
  rounds: number
  minutes: number
  machine: Machine
  cells: Cell[]
  verdicts: Verdict[]
  /** Names of targets that nothing was measured for. */
  unknown: string[]
}

/** `1,234`, or with fewer than three digits before the point `1.23`. */
export function number(value: number): string {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

function spread({ median, min, max, rounds }: Rates): string {
  return rounds.length === 1 ? number(median) : `${number(median)} (${number(min)}–${number(max)})`
}

/** A table in Markdown. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

function targetsTable({ verdicts, unknown }: Report): string {
  const rows = verdicts.map((verdict) => {
    const { name, wanted, found, isRatio, held, of, to } = verdict
    const unit = isRatio ? '×' : unitOf(of.figure, of.cell)
    const [sign, limit] = 'atLeast' in wanted ? ['≥', wanted.atLeast] : ['≤', wanted.atMost]
    const best = to !== null && severalIn(name) ? ` (${to.cell.split('/')[1]})` : ''
    return [
      name + best,
      `${spread(found)} ${unit}`,
      `${sign} ${limit.toLocaleString('en')} ${unit}`,
      held ? 'held' : '**missed**',
    ]
  })
  rows.push(...unknown.map((name) => [name, 'not measured', '', '']))
  return table(['target', 'found: median (least–most)', 'wanted', ''], rows)
}

function severalIn(name: string): boolean {
  return (TARGETS.find((target) => target.name === name)?.to?.length ?? 0) > 1
}

function unitOf(figure: Figure | undefined, cell: string): string {
  if (figure !== undefined) return FIGURES[figure].unit
  return cell.startsWith('hold/') ? UNITS.bytes.text : UNITS.rate.text
}

function figuresTable(cells: readonly Cell[], complete: boolean): string {
  const named = Object.entries(FIGURES) as [Figure, (typeof FIGURES)[Figure]][]
  const used = named.filter(([figure]) => cells.some((cell) => summaryOf(cell, figure) !== null))
  const head = ['', `${cells[0] === undefined ? '' : UNITS[cells[0].unit].text}: median (least–most)`]
  head.push(...used.map(([, { title, unit }]) => `${title}, ${unit}`))
  if (complete) head.push('load by others')
  const rows = cells.map((cell) => {
    const value = summaryOf(cell)
    const row = [cell.label, value === null ? 'failed' : spread(value)]
    for (const [figure] of used) {
      const found = summaryOf(cell, figure)
      row.push(found === null ? '' : number(found.median))
    }
    if (complete) row.push(loadOf(cell))
    return row
  })
  return table(head, rows)
}

/** Processors that others used during the runs; the least and the most. */
function loadOf({ runs }: Cell): string {
  const found = runs.flatMap(({ load }) => (load === null ? [] : [load.during + load.stolen]))
  if (found.length === 0) return ''
  return `${Math.min(...found).toFixed(2)}–${Math.max(...found).toFixed(2)}`
}

function groups(cells: readonly Cell[]): [title: string, cells: Cell[]][] {
  const found = new Map<string, Cell[]>()
  for (const cell of cells) found.set(cell.title, [...(found.get(cell.title) ?? []), cell])
  return [...found]
}

/** One line about the machine, the versions and the command. */
export function provenance({ machine, command, rounds, minutes, date }: Report): string {
  const versions = Object.entries(machine.versions).map(([name, version]) => `${name} ${version}`)
  return (
    `\`${command}\` on ${date}: ${rounds} ${rounds === 1 ? 'round' : 'rounds'} in ${minutes} minutes on ${machine.processors} processors ` +
    `(${machine.model}), ${machine.memoryGiB} GiB, ${machine.system}; ${versions.join(', ')}.`
  )
}

const PYTHON: ReadonlySet<string> = new Set(['python', ...PYTHON_POOLS])

/** A row for each measurement; of Python's pools the best. */
function overview({ cells }: Report): string {
  const rows = groups(cells).map(([title, contenders]) => {
    const unit = UNITS[contenders[0]?.unit ?? 'rate']
    const better = (a: Cell, b: Cell): number => {
      const [first, second] = [summaryOf(a)?.median ?? Number.NaN, summaryOf(b)?.median ?? Number.NaN]
      return unit.betterIs === 'more' ? second - first : first - second
    }
    const value = (cell: Cell | undefined): string => {
      const found = cell === undefined ? null : summaryOf(cell)
      return found === null ? '' : number(found.median)
    }
    const named = (name: string): Cell | undefined => contenders.find(({ contender }) => contender === name)
    const [python] = contenders.filter(({ contender }) => PYTHON.has(contender)).toSorted(better)
    const bare = contenders.filter(
      ({ contender }) => contender !== 'celeriac' && contender !== 'bullmq' && !PYTHON.has(contender),
    )
    const which = python === undefined || python.contender === 'python' ? '' : ` (${python.contender})`
    return [
      `${title}, ${unit.text}`,
      value(named('celeriac')),
      value(python) + which,
      value(named('bullmq')),
      bare.map((cell) => `${value(cell)} (${cell.contender})`).join(', '),
    ]
  })
  return table(['median', 'celeriac', 'Python Celery', 'BullMQ', 'no task queue'], rows)
}

/** Between the markers of the README; `folder` is where the plots are, from there. */
export function readmeSection(report: Report, folder: string, plots: readonly Plot[]): string {
  const images = plots.map(({ file, title }) => `![${title}](${folder}/${file})`)
  return [
    provenance(report),
    overview(report),
    targetsTable(report),
    images.join('\n\n'),
    `Every figure: [${folder}/bench.md](${folder}/bench.md). How it is measured: [benchmarks/README.md](benchmarks/README.md).`,
  ].join('\n\n')
}

export interface Plot {
  file: string
  title: string
}

/** Every figure; `more` are sections from elsewhere. */
export function completeReport(report: Report, plots: readonly Plot[], more: readonly string[]): string {
  const sections = groups(report.cells).map(([title, cells]) => `## ${title}\n\n${figuresTable(cells, true)}`)
  return [
    '# What `npm run bench` found',
    provenance(report),
    'The load by others is the number of processors that programs of others used, or the host withheld, during the runs: the ' +
      'least and the most.',
    '## Targets',
    targetsTable(report),
    plots.map(({ file, title }) => `![${title}](${file})`).join('\n\n'),
    ...sections,
    ...more,
    '',
  ].join('\n\n')
}
