// `npm run bench:short`: benchmarks/short.ts with everything that it needs. Options go to it: see benchmarks/README.md.

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
try {
  await installPackages()
  await build()
  const env = { CELERIAC_PYTHON: await pythonWithCelery(), CELERIAC_REDIS_SERVER: await redisServer() }
  const jiti = join(root, 'node_modules', '.bin', 'jiti')
  process.exitCode = (await run(jiti, [`benchmarks/${name}.ts`, ...args], { env })).code
} catch (error) {
  console.error(error instanceof Problem ? error.message : error)
  process.exitCode = 1
}
