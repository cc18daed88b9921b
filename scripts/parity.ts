/**
 * `npm run parity`: how much of Celery is there, by area, and whether every claim of the ledger has a test that passed in
 * the last run of `npm test`. Ends with 1 on a false claim. `--json` prints the same as JSON; `--form` looks at the form
 * of the ledger alone and asks for no results.
 */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { AREAS, count, falseClaims, parseCargo, parseLedger, parseVitest } from './parity-ledger.ts'
import type { Area, Outcome } from './parity-ledger.ts'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const { values: options } = parseArgs({ options: { json: { type: 'boolean' }, form: { type: 'boolean' } } })

const problems: string[] = []

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(join(root, path), 'utf8')) as unknown
}

function lastResults(): Map<string, Outcome> {
  const read: [string, (report: unknown) => Map<string, Outcome>][] = [
    ['test-results/vitest.json', (report) => parseVitest(report, root)],
    ['test-results/cargo.json', parseCargo],
  ]
  const results = new Map<string, Outcome>()
  for (const [path, parse] of read) {
    if (!existsSync(join(root, path))) {
      problems.push(`there is no ${path}; run npm test first`)
      continue
    }
    for (const [name, outcome] of parse(readJson(path))) results.set(name, outcome)
  }
  return results
}

const areas = (Object.keys(AREAS) as Area[]).map((area) => {
  const rows = parseLedger(readFileSync(join(root, 'docs/parity', `${area}.md`), 'utf8'), area, problems)
  return { area, rows }
})

if (options.form !== true) {
  const results = lastResults()
  for (const { rows } of areas) problems.push(...falseClaims(rows, results))
}

const counts = [
  ...areas.map(({ area, rows }) => ({ area, ...count(rows) })),
  { area: 'all', ...count(areas.flatMap(({ rows }) => rows)) },
]

if (options.json === true) {
  const byArea = Object.fromEntries(counts.map(({ area, ...rest }) => [area, rest]))
  console.log(JSON.stringify({ counts: byArea, problems }, null, 2))
} else {
  console.log(
    ['area'.padEnd(12), ...['yes', 'partly', 'no', 'n/a', 'total'].map((head) => head.padStart(7))].join(''),
  )
  for (const each of counts) {
    const numbers = [each.yes, each.partly, each.no, each['n/a'], each.total]
    console.log([each.area.padEnd(12), ...numbers.map((number) => String(number).padStart(7))].join(''))
  }
  for (const problem of problems.slice(0, 50)) console.error(problem)
  if (problems.length > 50) console.error(`… and ${problems.length - 50} more; --json prints all`)
}
if (problems.length > 0) process.exitCode = 1
