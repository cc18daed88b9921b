// Everything, side by side; README.md says how it is measured.
//
//   npm run bench                        three rounds; writes results/ and the section of the README
//   npm run bench -- --check             and fails when a target is missed
//   npm run bench -- --rounds 5          so many rounds
//   npm run bench -- --only work         only what begins with this, also `work/celeriac`; more than one is allowed
//   npm run bench -- --quick             small counts in one round, to try that all of it works
//   npm run bench -- --list              the names
//
// With `--only` and `--quick` the results go to results/partial/, and the README stays as it is.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { format, resolveConfig } from 'prettier'
import { startRedis, temporaryFolder } from '../__test__/support/servers.ts'
import { measurements } from './measurements.ts'
import { completeReport, number, readmeSection, type Report } from './report/markdown.ts'
import { drawPlots } from './report/plots.ts'
import { waitingSection } from './report/waiting.ts'
import { type Bench, type Contender, type Measurement, UNITS } from './support/contender.ts'
import { withLoad } from './support/load.ts'
import { describeMachine } from './support/machine.ts'
import { environmentFor, resultOf, startOurs } from './support/programs.ts'
import { Progress } from './support/progress.ts'
import { type RabbitServer, startRabbit } from './support/rabbitmq.ts'
import { RedisNumbers } from './support/redis.ts'
import { type Cell, cellsOf, judge, type Run, type Verdict } from './support/results.ts'
import { TARGETS } from './targets.ts'

const QUICK = 0.02
const QUICK_LEAST = 100
const MARKERS = ['<!-- benchmark: written by `npm run bench` -->', '<!-- /benchmark -->'] as const
const results = join(import.meta.dirname, 'results')
const readme = join(import.meta.dirname, '..', 'README.md')

const { values: options } = parseArgs({
  options: {
    check: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string', multiple: true, default: [] },
  },
})
const rounds = Number(options.rounds ?? (options.quick ? 1 : 3))

/** The message says what is wrong with the options. */
class UsageError extends Error {}

/** What `--only` leaves. */
function chosen(all: readonly Measurement[]): Measurement[] {
  const isWanted = (name: string): boolean =>
    options.only.length === 0 || options.only.some((part) => name.startsWith(part))
  return all
    .map((measurement) => ({
      ...measurement,
      contenders: measurement.contenders.filter(({ name }) => isWanted(`${measurement.name}/${name}`)),
    }))
    .filter(({ contenders }) => contenders.length > 0)
}

/** The same, begun at another place every round, so that nobody always comes after the same. */
function rotated(contenders: readonly Contender[], round: number): Contender[] {
  const begin = (round - 1) % contenders.length
  return [...contenders.slice(begin), ...contenders.slice(0, begin)]
}

async function measureOnce(contender: Contender, round: number, bench: Bench): Promise<Run> {
  const begin = performance.now()
  const took = (): number => (performance.now() - begin) / 1000
  try {
    const [sample, load] = await withLoad(() => contender.run(bench))
    return { round, sample, load, took: took() }
  } catch (error) {
    return { round, error: error instanceof Error ? error.message : String(error), load: null, took: took() }
  }
}

async function measureAll(all: readonly Measurement[], bench: Bench): Promise<Map<string, Cell>> {
  const cells = cellsOf(all)
  const progress = new Progress(cells.size * rounds)
  for (let round = 1; round <= rounds; round += 1) {
    for (const measurement of all) {
      for (const contender of rotated(measurement.contenders, round)) {
        const name = `${measurement.name}/${contender.name}`
        progress.begin(name)
        const run = await measureOnce(contender, round, bench)
        cells.get(name)?.runs.push(run)
        progress.advance(lineOf(name, measurement, run))
      }
    }
  }
  progress.end()
  return cells
}

function lineOf(name: string, { unit }: Measurement, { round, sample, error, load, took }: Run): string {
  const found = sample === undefined ? `FAILED: ${error}` : `${number(sample.value)} ${UNITS[unit].text}`
  const main = sample?.figures?.mainThread
  const thread = main === undefined || main === null ? '' : `  main thread ${number(main)} µs`
  const others = load === null ? '' : `  others ${(load.during + load.stolen).toFixed(2)}`
  return `round ${round}  ${name.padEnd(28)}${found.padStart(16)}${thread}${others}  (${took.toFixed(1)} s)`
}

/** A message of ours as it lies in Redis. */
async function captureMessage(bench: Omit<Bench, 'message'>): Promise<string> {
  const { redis } = bench
  await resultOf(startOurs('produce', { count: 1 }, environmentFor(redis.url, redis.url)))
  const text = await redis.command('LINDEX', 'bench', '0')
  if (!text.startsWith('{')) throw new Error(`no message is there: ${text}`)
  await redis.command('FLUSHALL')
  return text
}

function verdictsTable(verdicts: readonly Verdict[], unknown: readonly string[]): string {
  const table = new Table({
    head: ['target', 'found', 'least–most', 'wanted', ''],
    style: { head: [], border: [] },
  })
  for (const { name, found, wanted, isRatio, held } of verdicts) {
    const unit = isRatio ? ' ×' : ''
    const limit = 'atLeast' in wanted ? `≥ ${wanted.atLeast}` : `≤ ${wanted.atMost}`
    const range = `${number(found.min)}–${number(found.max)}`
    table.push([name, `${number(found.median)}${unit}`, range, `${limit}${unit}`, held ? 'held' : 'MISSED'])
  }
  const rest = unknown.length === 0 ? '' : `\nnot measured: ${unknown.length} of ${TARGETS.length} targets`
  return table.toString() + rest
}

async function formatted(text: string): Promise<string> {
  const config = await resolveConfig(readme)
  return format(text, { ...config, parser: 'markdown' })
}

/** Writes the results; the section of the README only after a complete run. */
async function write(report: Report, isComplete: boolean): Promise<void> {
  const folder = isComplete ? results : join(results, 'partial')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'bench.json'), `${JSON.stringify(report, undefined, 1)}\n`)
  const plots = drawPlots(report.cells, folder)
  writeFileSync(
    join(folder, 'bench.md'),
    await formatted(completeReport(report, plots, [waitingSection(results)])),
  )
  const section = readmeSection(report, 'benchmarks/results', plots)
  if (!isComplete) {
    writeFileSync(join(folder, 'readme-section.md'), await formatted(section))
    return
  }
  const text = readFileSync(readme, 'utf8')
  const [begin, end] = MARKERS.map((marker) => text.indexOf(marker)) as [number, number]
  if (begin < 0 || end < begin) throw new Error('README.md has no markers for the benchmark')
  const before = text.slice(0, begin + MARKERS[0].length)
  writeFileSync(readme, `${before}\n\n${(await formatted(section)).trim()}\n\n${text.slice(end)}`)
}

function commandLine(): string {
  const args = process.argv.slice(2)
  return args.length === 0 ? 'npm run bench' : `npm run bench -- ${args.join(' ')}`
}

async function main(): Promise<void> {
  if (options.list) {
    for (const name of cellsOf(measurements('')).keys()) console.log(name)
    return
  }
  if (!Number.isInteger(rounds) || rounds < 1)
    throw new UsageError(`--rounds takes a number, not ${options.rounds}`)
  if (chosen(measurements('')).length === 0)
    throw new UsageError(`nothing begins with ${options.only.join(' or ')}; --list says what there is`)
  const began = performance.now()
  const redis = await startRedis()
  let rabbit: Promise<RabbitServer> | undefined
  const numbers = await RedisNumbers.connect(redis.port)
  const folder = temporaryFolder()
  const servers = {
    redis,
    numbers,
    rabbitmq: () => (rabbit ??= startRabbit()),
    size: (full: number) => (options.quick ? Math.max(QUICK_LEAST, Math.ceil(full * QUICK)) : full),
  }
  const text = await captureMessage(servers)
  const bench: Bench = { ...servers, message: join(folder, 'message.json') }
  writeFileSync(bench.message, text)

  const all = chosen(measurements(text))
  // Its start would burden what is measured meanwhile.
  if (all.some(({ name }) => name.startsWith('rabbit'))) await servers.rabbitmq()
  const cells = await measureAll(all, bench)
  const server = await rabbit
  await server?.stop()
  numbers.close()
  await redis.stop()

  const judged = TARGETS.map((target) => ({ target, verdict: judge(target, cells) }))
  const verdicts = judged.flatMap(({ verdict }) => (verdict === null ? [] : [verdict]))
  const unknown = judged.filter(({ verdict }) => verdict === null).map(({ target }) => target.name)
  const report: Report = {
    command: commandLine(),
    date: new Date().toISOString().slice(0, 10),
    rounds,
    minutes: Math.ceil((performance.now() - began) / 60_000),
    machine: describeMachine(server?.version ?? null),
    cells: [...cells.values()],
    verdicts,
    unknown,
  }
  await write(report, !options.quick && options.only.length === 0)
  console.log(verdictsTable(verdicts, unknown))

  const failures = report.cells.flatMap(({ measurement, contender, runs }) =>
    runs.flatMap(({ round, error }) =>
      error === undefined ? [] : [`${measurement}/${contender}, round ${round}: ${error}`],
    ),
  )
  for (const failure of failures) console.error(`✗ ${failure}`)
  const missed = verdicts.filter(({ held }) => !held)
  if (failures.length > 0 || (options.check && missed.length > 0)) process.exitCode = 1
}

process.once('SIGINT', () => process.exit(130)).once('SIGTERM', () => process.exit(143))
try {
  await main()
} catch (error) {
  console.error(error instanceof UsageError ? error.message : error)
  process.exit(1)
}
