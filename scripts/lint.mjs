// `npm run lint`: every check that reads the sources and runs none of them, each a line. Needs a build.

import { join } from 'node:path'
import { installPackages, Problem, root, run, writeWhole } from './support/environment.mjs'

const tool = (name) => join(root, 'node_modules', '.bin', name)

const CHECKS = [
  ['the Rust code is formatted', 'cargo', 'fmt', '--all', '--check'],
  ['prettier would change nothing', tool('prettier'), '--check', '--log-level=warn', '.'],
  ['oxlint finds nothing, no import cycle either', tool('oxlint'), '--deny-warnings'],
  ['imports go down the layers of lib/ only', process.execPath, 'scripts/check-imports.mjs'],
  ['the types hold', tool('tsc'), '--noEmit'],
  [
    'the committed loader and declarations are what the build makes',
    ...['git', 'diff', '--exit-code', '--', 'native.cjs', 'native.d.cts'],
  ],
  [
    'clippy finds nothing',
    ...[
      'cargo',
      'clippy',
      '--workspace',
      '--exclude',
      'celeriac-node',
      '--all-targets',
      '--quiet',
      '--',
      '-D',
      'warnings',
    ],
  ],
  // Its exports are macros that a test build leaves out.
  [
    'clippy finds nothing in the binding',
    ...['cargo', 'clippy', '-p', 'celeriac-node', '--quiet', '--', '-D', 'warnings'],
  ],
]

/** Runs every check; the result of each, as in test-results/lint.json. */
export async function lint() {
  const tests = []
  for (const [name, command, ...args] of CHECKS) {
    const { code, output } = await run(command, args, { show: false, timeout: 1800 })
    tests.push({ name, status: code === 0 ? 'passed' : 'failed' })
    console.log(`${code === 0 ? '✓' : '✗'} ${name}`)
    if (code !== 0) console.log(`\n  ${[command, ...args].join(' ')}\n${output.trimEnd()}\n`)
  }
  writeWhole(join(root, 'test-results', 'lint.json'), JSON.stringify(tests, undefined, 1))
  return tests
}

if (process.argv[1] === join(root, 'scripts', 'lint.mjs')) {
  try {
    await installPackages()
    const tests = await lint()
    if (tests.some(({ status }) => status === 'failed')) process.exitCode = 1
  } catch (error) {
    console.error(error instanceof Problem ? error.message : error)
    process.exitCode = 1
  }
}
