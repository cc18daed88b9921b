// `npm run bench:short`: benchmarks/short.ts with everything that it needs. Options go to it: see benchmarks/README.md.
// `npm run bench:waiting`: the Rust program crates/celeriac-broker/examples/waiting.rs.

import { join } from 'node:path'
import {
  Problem,
  build,
  installPackages,
  pythonWithCelery,
  redisServer,
  root,
  run,
} from './support/environment.mjs'

const [name, ...args] = process.argv.slice(2)

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

async function typescript() {
  await installPackages()
  await build()
  const env = { CELERIAC_PYTHON: await pythonWithCelery(), CELERIAC_REDIS_SERVER: await redisServer() }
  const jiti = join(root, 'node_modules', '.bin', 'jiti')
  return (await run(jiti, [`benchmarks/${name}.ts`, ...args], { env })).code
}

try {
  process.exitCode = await (name === 'waiting' ? waiting() : typescript())
} catch (error) {
  console.error(error instanceof Problem ? error.message : error)
  process.exitCode = 1
}
