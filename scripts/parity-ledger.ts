/** The parity ledger: its rows in docs/parity/, the results of the last test run, and what of it is not true. */

/** Whether celeriac does what a row says. `n/a` is for what has no meaning in Node, with the reason in the note. */
export type State = 'yes' | 'partly' | 'no' | 'n/a'

const STATES: readonly string[] = ['yes', 'partly', 'no', 'n/a'] satisfies State[]

/** The areas, one file each: the letter of their ids and how many rows there are, so that none gets lost. */
export const AREAS = {
  settings: { letter: 'S', rows: 247 },
  tasks: { letter: 'T', rows: 331 },
  worker: { letter: 'W', rows: 291 },
  transports: { letter: 'X', rows: 187 },
  backends: { letter: 'R', rows: 132 },
  protocol: { letter: 'P', rows: 140 },
} as const

export type Area = keyof typeof AREAS

/** One row: a behaviour of Celery. */
export interface Row {
  readonly id: string
  readonly state: State
  /** What the behaviour is, in short. */
  readonly item: string
  /** The tests that show it. A name may be that of a group of tests: then it stands for all of them. */
  readonly tests: readonly string[]
  /** What is missing, or why it has no meaning here. */
  readonly note: string
}

/** What came of a test in the last run. */
export type Outcome = 'passed' | 'failed' | 'skipped'

/** The outcome of each test, by its name: `path/file.test.ts > group > test`, or `crate::module::test`. */
export type Results = ReadonlyMap<string, Outcome>

function cells(line: string): string[] {
  return line
    .replace(/^\s*\|/, '')
    .replace(/\|\s*$/, '')
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll(String.raw`\|`, '|'))
}

function withoutBackticks(text: string): string {
  return text.length > 1 && text.startsWith('`') && text.endsWith('`') ? text.slice(1, -1) : text
}

/** Reads one file of the ledger; `problems` gets what is wrong with its form. */
export function parseLedger(markdown: string, area: Area, problems: string[]): Row[] {
  const { letter, rows: expected } = AREAS[area]
  const rows = new Map<string, Row>()
  for (const line of markdown.split('\n')) {
    if (!new RegExp(String.raw`^\s*\|\s*${letter}\d+\s*\|`).test(line)) continue
    const [id = '', state = '', item = '', test = '', note = '', ...more] = cells(line)
    if (more.length > 0) problems.push(`${id}: more than five cells; a | in a cell is written \\|`)
    if (!STATES.includes(state))
      problems.push(`${id}: the state is "${state}"; expected yes, partly, no or n/a`)
    if (rows.has(id)) problems.push(`${id}: there are two rows`)
    const tests = test
      .split(/<br\s*\/?>/)
      .map((each) => withoutBackticks(each.trim()))
      .filter((each) => each !== '')
    for (const each of tests.filter((name) => !/ > |::/.test(name))) {
      problems.push(`${id}: "${each}" names a file; name the tests in it that show the behaviour`)
    }
    rows.set(id, { id, state: state as State, item, tests, note })
  }
  for (let number = 1; number <= expected; number += 1) {
    const id = letter + String(number).padStart(3, '0')
    if (!rows.has(id)) problems.push(`${id}: the row is missing from ${area}.md`)
  }
  if (rows.size > expected) problems.push(`${area}.md has ${rows.size} rows; expected ${expected}`)
  return [...rows.values()]
}

interface VitestReport {
  testResults: {
    name: string
    assertionResults: { ancestorTitles: string[]; title: string; status: string }[]
  }[]
}

function outcome(status: string): Outcome {
  if (status === 'passed' || status === 'ok') return 'passed'
  return status === 'failed' || status === 'FAILED' ? 'failed' : 'skipped'
}

/** Reads what vitest's json reporter wrote. `root` is the folder that the names of files are relative to. */
export function parseVitest(report: unknown, root: string): Map<string, Outcome> {
  const results = new Map<string, Outcome>()
  const prefix = `${root.replaceAll('\\', '/').replace(/\/$/, '')}/`
  for (const file of (report as VitestReport).testResults) {
    const path = file.name.replaceAll('\\', '/')
    const relative = path.startsWith(prefix) ? path.slice(prefix.length) : path
    for (const { ancestorTitles, title, status } of file.assertionResults) {
      const name = [relative, ...ancestorTitles, title].filter((part) => part !== '').join(' > ')
      // Of several tests of one name the worst counts.
      const before = results.get(name)
      if (before === undefined || before === 'passed') results.set(name, outcome(status))
    }
  }
  return results
}

/** Reads the list of cargo's tests: `[{ "name": "crate::module::test", "status": "ok" }]`. */
export function parseCargo(report: unknown): Map<string, Outcome> {
  const results = new Map<string, Outcome>()
  for (const { name, status } of report as { name: string; status: string }[]) {
    // Two crates may have a test file of one name: of several tests of one name the worst counts.
    const before = results.get(name)
    if (before === undefined || before === 'passed') results.set(name, outcome(status))
  }
  return results
}

function checkTest(name: string, results: Results): string | undefined {
  const all = [...results].filter(
    ([each]) => each === name || each.startsWith(`${name} > `) || each.startsWith(`${name}::`),
  )
  if (all.length === 0) return `no test of the last run is called "${name}"`
  const bad = all.find(([, each]) => each !== 'passed')
  return bad === undefined ? undefined : `the test "${bad[0]}" was ${bad[1]}`
}

/** What is not true in the rows: claims without a test that passed, and what has no meaning without a reason. */
export function falseClaims(rows: readonly Row[], results: Results): string[] {
  return rows.flatMap(({ id, state, tests, note }) => {
    if (state === 'no') return tests.length === 0 ? [] : [`${id}: the state is no, and yet a test is named`]
    if (state === 'n/a') return note === '' ? [`${id}: n/a needs its reason in the note`] : []
    const problems = tests.flatMap((test) => checkTest(test, results) ?? [])
    if (tests.length === 0) problems.push(`the state is ${state}, and no test is named`)
    if (state === 'partly' && note === '') problems.push('partly needs a note that says what is missing')
    return problems.map((problem) => `${id}: ${problem}`)
  })
}

/** How many rows are in each state. */
export function count(rows: readonly Row[]): Record<State, number> & { total: number } {
  const counts = { yes: 0, partly: 0, no: 0, 'n/a': 0, total: rows.length }
  for (const { state } of rows) if (state in counts) counts[state] += 1
  return counts
}
