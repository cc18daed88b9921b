// `npm test`: installs and builds what is missing, runs every suite, and ends with one line of counts.
//
//   npm test                      everything
//   npm test -- --only unit       one suite: lint, rust, unit, package, conformance, interop, reliability, parity (several with commas)
//
// test-results/ holds what each suite found, test by test.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import {
  Problem,
  build,
  buildTestAids,
  environment,
  installPackages,
  pythonWithCelery,
  rabbitMqServer,
  redisServer,
  root,
  run,
  writeWhole,
} from './support/environment.mjs'
import { lint } from './lint.mjs'
import { buildRelease } from './support/release.mjs'
import { parseCargoTests } from './support/cargo-tests.mjs'

const results = join(root, 'test-results')
const { values } = parseArgs({ options: { only: { type: 'string' } } })
const only = values.only?.split(',')
const VITEST_PROJECTS = ['unit', 'package', 'conformance', 'interop', 'reliability']
const SUITES = ['lint', 'rust', ...VITEST_PROJECTS, 'parity']
const unknown = only?.filter((name) => !SUITES.includes(name)) ?? []
if (unknown.length > 0) {
  console.error(`there is no suite ${unknown.join(', ')}; there are ${SUITES.join(', ')}`)
  process.exit(2)
}
const wanted = (name) => only === undefined || only.includes(name)

// What tests leave in their temporary folders goes with us, also when they were killed.
const folder = mkdtempSync(join(tmpdir(), 'celeriac-'))
// Vitest makes none in it: paths of sockets must be short (__test__/support/run-folder.ts).
Object.assign(environment, { TMPDIR: folder, CELERIAC_RUN_FOLDER: folder })
process.on('exit', () => {
  try {
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  } catch (error) {
    // A server that does not end yet still writes; what the tests found stands.
    console.error(`${folder} could not be removed: ${error.message}`)
  }
})

/** One row of the closing table. */
const rows = []
function record(suite, counts, seconds) {
  rows.push({ suite, ...counts, seconds })
}

async function timed(suite, work) {
  const start = Date.now()
  let counts
  try {
    counts = await work()
  } catch (error) {
    console.error(error instanceof Problem ? error.message : error)
    counts = { passed: 0, failed: 1, skipped: 0 }
  }
  record(suite, counts, (Date.now() - start) / 1000)
}

async function rust() {
  const args = ['test', '--workspace', '--exclude', 'celeriac-node', '--no-fail-fast']
  const { code, output } = await run('cargo', args, { timeout: 1800 })
  const tests = parseCargoTests(output)
  writeWhole(join(results, 'cargo.json'), JSON.stringify(tests, undefined, 1))
  return countTests(tests, code)
}

/** Runs one project of vitest.config.ts. test-results/vitest.json has the last report of each, as vitest writes it. */
async function vitest(project, env) {
  const file = join(results, `vitest-${project}.json`)
  rmSync(file, { force: true })
  const args = ['run', '--project', project, '--reporter', 'default', '--reporter', 'json']
  const command = join(root, 'node_modules', '.bin', 'vitest')
  const { code } = await run(command, [...args, `--outputFile.json=${file}`], { env, timeout: 2400 })
  if (!existsSync(file)) return { passed: 0, failed: 1, skipped: 0 }
  const files = JSON.parse(readFileSync(file, 'utf8')).testResults
  const reports = VITEST_PROJECTS.map((name) => join(results, `vitest-${name}.json`)).filter((path) =>
    existsSync(path),
  )
  const testResults = reports.flatMap((path) => JSON.parse(readFileSync(path, 'utf8')).testResults)
  writeWhole(join(results, 'vitest.json'), JSON.stringify({ testResults }, undefined, 1))
  return countTests(files.flatMap(testsOfFile), code)
}

function testsOfFile({ status, assertionResults }) {
  // A file that cannot be loaded has no tests.
  if (assertionResults.length === 0) return [{ status: status === 'passed' ? 'passed' : 'failed' }]
  return assertionResults.map((test) => ({
    status: test.status === 'passed' || test.status === 'failed' ? test.status : 'skipped',
  }))
}

/** A command that failed although no test says so (it crashed, or did not compile) counts as one that failed. */
function countTests(tests, code = 0) {
  const count = (status) => tests.filter((test) => test.status === status).length
  const failed = count('failed')
  return {
    passed: count('passed'),
    failed: code !== 0 && failed === 0 ? 1 : failed,
    skipped: count('skipped'),
  }
}

async function check(command, args) {
  const { code } = await run(command, args)
  return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: 0 }
}

function printTable() {
  console.log(
    `\n${'suite'.padEnd(14)}${'passed'.padStart(8)}${'failed'.padStart(8)}${'skipped'.padStart(9)}${'seconds'.padStart(9)}`,
  )
  for (const row of rows) {
    const cells = [row.passed, row.failed, row.skipped].map((count, index) =>
      String(count).padStart([8, 8, 9][index]),
    )
    console.log(`${row.suite.padEnd(14)}${cells.join('')}${row.seconds.toFixed(0).padStart(9)}`)
  }
}

async function main() {
  if (only === undefined) rmSync(results, { recursive: true, force: true })
  mkdirSync(results, { recursive: true })
  await installPackages()
  const redis = await redisServer()
  await rabbitMqServer()
  const env = { CELERIAC_REDIS_SERVER: redis }
  Object.assign(environment, env)
  if (['interop', 'package', 'reliability'].some(wanted)) env.CELERIAC_PYTHON = await pythonWithCelery()
  if (only === undefined || only.some((name) => !['rust', 'parity'].includes(name))) await build()
  if (['interop', 'reliability'].some(wanted)) Object.assign(env, await buildTestAids())
  if (wanted('package')) env.CELERIAC_RELEASE_BINARY = await buildRelease()
  if (wanted('lint')) await timed('lint', async () => countTests(await lint()))
  if (wanted('rust')) await timed('rust', rust)
  for (const project of VITEST_PROJECTS) {
    if (wanted(project)) await timed(project, () => vitest(project, env))
  }
  if (wanted('parity')) await timed('parity', () => check('npm', ['run', '--silent', 'parity']))
}

let problem
try {
  await main()
} catch (error) {
  problem = error
  console.error(error instanceof Problem ? `\n${error.message}` : error)
  record('set-up', { passed: 0, failed: 1, skipped: 0 }, 0)
}
printTable()
const sum = (key) => rows.reduce((total, row) => total + row[key], 0)
const failed = sum('failed')
process.exitCode = failed > 0 || problem !== undefined || rows.length === 0 ? 1 : 0
console.log(`\n${sum('passed')} passed, ${failed} failed, ${sum('skipped')} skipped`)
