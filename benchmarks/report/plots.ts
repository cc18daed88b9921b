/** Which plots there are; echarts draws them in a process of its own, where it is installed. */

import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { UNITS } from '../support/contender.ts'
import { provided } from '../support/programs.ts'
import type { Rates } from '../support/rates.ts'
import { type Cell, summaryOf } from '../support/results.ts'
import type { Plot } from './markdown.ts'

/** A plot of several measurements of one unit, one below the other; far apart ones have a logarithmic axis. */
interface Drawing {
  file: string
  title: string
  measurements: readonly string[]
  logarithmic: boolean
}

const DRAWINGS: readonly Drawing[] = [
  {
    file: 'send-redis.svg',
    title: 'Sending on Redis, per second',
    measurements: ['send-one', 'send-many', 'send-bulk'],
    logarithmic: true,
  },
  {
    file: 'work-redis.svg',
    title: 'Working off a queue on Redis, per second',
    measurements: ['work', 'work-ignored'],
    logarithmic: true,
  },
  {
    file: 'settings-redis.svg',
    title: 'The same with other settings, per second',
    measurements: ['work-early', 'work-late', 'work-prefetch-1', 'work-prefetch-64'],
    logarithmic: true,
  },
  {
    file: 'rabbitmq.svg',
    title: 'RabbitMQ, per second',
    measurements: ['rabbit-send-one', 'rabbit-send-many', 'rabbit-work'],
    logarithmic: true,
  },
  {
    file: 'round-trip.svg',
    title: 'From call to result at idle, ms',
    measurements: ['round-trip'],
    logarithmic: false,
  },
  { file: 'start.svg', title: 'Start to first task sent, ms', measurements: ['start'], logarithmic: false },
  {
    file: 'memory.svg',
    title: 'Memory of an idle worker, MiB',
    measurements: ['memory'],
    logarithmic: false,
  },
  { file: 'hold.svg', title: 'Memory of a held ETA task, bytes', measurements: ['hold'], logarithmic: false },
]

interface Bar {
  label: string
  ours: boolean
  rates: Rates
}

/** What plots/draw.mjs is told. */
interface Order {
  path: string
  title: string
  logarithmic: boolean
  groups: { title: string; unit: string; bars: Bar[] }[]
}

/** Writes those plots that there are figures for. */
export function drawPlots(cells: readonly Cell[], folder: string): Plot[] {
  mkdirSync(folder, { recursive: true })
  const orders: Order[] = []
  const plots: Plot[] = []
  for (const { file, title, measurements, logarithmic } of DRAWINGS) {
    const groups = measurements.flatMap((name) => {
      const found = cells.filter(({ measurement }) => measurement === name)
      const bars = found.flatMap((cell) => barOf(cell))
      const [first] = found
      if (first === undefined || bars.length === 0) return []
      return [{ title: first.title, unit: UNITS[first.unit].text, bars }]
    })
    if (groups.length === 0) continue
    orders.push({ path: join(folder, file), title, logarithmic, groups })
    plots.push({ file, title })
  }
  const program = join(provided('CELERIAC_BENCH_PLOTS'), 'draw.mjs')
  const { status, stderr } = spawnSync(process.execPath, [program], {
    input: JSON.stringify(orders),
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`the plots could not be drawn:\n${stderr}`)
  return plots
}

function barOf(cell: Cell): Bar[] {
  const rates = summaryOf(cell)
  if (rates === null) return []
  return [{ label: cell.label, ours: cell.contender === 'celeriac', rates }]
}
