import Table from 'cli-table3'
import colors from 'picocolors'

/** What a run found. */
export interface Measured {
  files: number
  words: number
  tasks: number
  /** From the first call to the last result. */
  seconds: number
  /** Milliseconds from each call to its result. */
  latencies: number[]
  /** How often the unreliable task was tried. */
  attempts: number
  /** Seconds that the delayed task was asked to wait, and those that it waited. */
  countdown: number
  delay: number
  /** Results that differ from a direct computation. */
  wrong: number
}

/** The closing table. */
export function report(measured: Measured): string {
  const { files, words, tasks, seconds, latencies, attempts, countdown, delay, wrong } = measured
  const style = { head: [], border: process.stdout.isTTY ? ['gray'] : [] }
  const chars = { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' }
  const table = new Table({ style, chars, colAligns: ['left', 'right'] })
  table.push(
    ['text files', whole(files)],
    ['words in them', whole(words)],
    ['tasks', whole(tasks)],
    ['tasks/s', colors.bold(whole(tasks / seconds))],
    ['latency p50', `${percentile(latencies, 50).toFixed(1)} ms`],
    ['latency p99', `${percentile(latencies, 99).toFixed(1)} ms`],
    ['retried', `${attempts - 1} times, then it succeeded`],
    [`delayed by ${countdown} s`, `ran after ${delay.toFixed(3)} s`],
    [
      'every result equals a direct computation',
      wrong === 0 ? colors.green('yes') : colors.red(`no, ${whole(wrong)} differ`),
    ],
  )
  return table.toString()
}

function whole(number: number): string {
  return Math.round(number).toLocaleString('en')
}

function percentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? Number.NaN
}
