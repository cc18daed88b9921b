// `npm run build`: the native core and the JavaScript, with the packages that this needs. With `-- --debug` the core is
// compiled quickly and runs slowly.

import { build, installPackages, Problem } from './support/environment.mjs'

try {
  await installPackages()
  await build(process.argv.includes('--debug') ? 'dev' : 'optimized')
} catch (error) {
  console.error(error instanceof Problem ? error.message : error)
  process.exitCode = 1
}
