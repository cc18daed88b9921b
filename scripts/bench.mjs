// `npm run bench`: benchmarks/bench.ts with everything that it needs. Options go to it: see benchmarks/README.md. With `--built`
// what was built before is measured as it is.
// `npm run bench:short`: benchmarks/short.ts.
// `npm run bench:waiting-rabbitmq`: benchmarks/waiting-rabbitmq.ts.
// `npm run bench:waiting`: the Rust program crates/celeriac-broker/examples/waiting.rs.

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { join } from 'node:path'
import {
  Problem,
  aptInstall,
  build,
  cache,
  environment,
  installPackages,
  must,
  pythonWithCelery,
  rabbitMqServer,
  redisServer,
  root,
  run,
  which,
} from './support/environment.mjs'
import { platformHere } from './support/platforms.mjs'
import { binaryPath, buildRelease } from './support/release.mjs'

const [name, ...rest] = process.argv.slice(2)
const args = rest.filter((argument) => argument !== '--built')
const isBuilt = args.length < rest.length
const EXAMPLES = ['bare_redis', 'bare_rabbitmq']

/** Measures the transport alone, without Node. */
async function waiting() {
  await redisServer()
  const program = [
    'run',
    '--profile',
    'optimized',
    '--package',
    'celeriac-broker',
    '--example',
    'waiting',
    '--',
    ...args,
  ]
  return (await run('cargo', program)).code
}

/** A program of benchmarks/, with the terminal as its own. */
async function typescript(file, more) {
  const CELERIAC_PYTHON = await pythonWithCelery()
  const CELERIAC_REDIS_SERVER = await redisServer()
  console.log('Building the programs that are measured …')
  await must('Building the programs', join(root, 'node_modules/.bin/tsc'), [
    '-p',
    'benchmarks/tsconfig.programs.json',
  ])
  const env = { ...environment, CELERIAC_PYTHON, CELERIAC_REDIS_SERVER, ...more }
  const jiti = join(root, 'node_modules', '.bin', 'jiti')
  const child = spawn(jiti, [`benchmarks/${file}`, ...args], { cwd: root, env, stdio: 'inherit' })
  // On Ctrl+C the benchmark ends first.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  const [code] = await once(child, 'close')
  return code ?? 1
}

async function short() {
  await installPackages()
  if (!isBuilt) await build()
  return typescript('short.ts', {})
}

async function complete() {
  await installPackages()
  if (!isBuilt) {
    await build()
    await buildRelease()
    console.log('Building the bare programs …')
    const examples = EXAMPLES.flatMap((example) => ['--example', example])
    const command = ['build', '--release', '--package', 'celeriac-broker', ...examples]
    await must('Building the bare programs', 'cargo', command, { show: false })
  }
  if (which('rabbitmq-server') === undefined && !existsSync('/usr/lib/rabbitmq/bin/rabbitmq-server'))
    await aptInstall('rabbitmq-server', 'rabbitmq-server is missing.')
  return typescript('bench.ts', {
    // What is measured is what is installed.
    NAPI_RS_NATIVE_LIBRARY_PATH: binaryPath(platformHere()),
    CELERIAC_BENCH_BARE: join(environment.CARGO_TARGET_DIR, 'release', 'examples'),
    CELERIAC_BENCH_PEERS: await installApart('peers'),
    CELERIAC_BENCH_PLOTS: await installApart('plots'),
  })
}

/**
 * Installs the npm packages of a folder of benchmarks/ in the cache, so that those who only build the project need none of
 * them, and copies its programs there; the path.
 */
async function installApart(folder) {
  const source = join(root, 'benchmarks', folder)
  const hash = createHash('sha256').update(readFileSync(join(source, 'package-lock.json')))
  const target = join(cache, `bench-${folder}-${hash.digest('hex').slice(0, 16)}`)
  if (!existsSync(target)) {
    console.log(`Installing the packages of benchmarks/${folder} …`)
    mkdirSync(cache, { recursive: true })
    const part = mkdtempSync(join(cache, `bench-${folder}-part-`))
    for (const file of ['package.json', 'package-lock.json'])
      copyFileSync(join(source, file), join(part, file))
    // Not `npm ci`, for the reason that installPackages() has.
    const command = [
      'install',
      '--no-save',
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
      '--prefer-offline',
    ]
    await must(`Installing the packages of benchmarks/${folder}`, 'npm', command, { show: false, cwd: part })
    try {
      renameSync(part, target)
    } catch (error) {
      if (!existsSync(target)) throw error
      // Somebody else was faster.
      rmSync(part, { recursive: true })
    }
  }
  for (const file of readdirSync(source).filter((each) => each.endsWith('.mjs')))
    copyFileSync(join(source, file), join(target, file))
  return target
}

async function waitingRabbitMq() {
  await installPackages()
  await rabbitMqServer()
  if (!isBuilt) await build()
  return typescript('waiting-rabbitmq.ts', {})
}

const COMMANDS = { complete, short, waiting, 'waiting-rabbitmq': waitingRabbitMq }

try {
  process.exitCode = await COMMANDS[name]()
} catch (error) {
  console.error(error instanceof Problem ? error.message : error)
  process.exitCode = 1
}
