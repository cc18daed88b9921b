// `npm run pack`: what is published, as tarballs in packages/: celeriac, and the package with the binary of this machine.
//
//   npm run pack -- --platform linux-x64-musl     the binary of another platform
//   npm run pack -- --only binary                 or main: one of the two
//
// --binary FILE packs a binary that was built elsewhere.

import { mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Problem, buildTypeScript, installPackages, must, root } from './support/environment.mjs'
import { placeBinary, platformHere } from './support/platforms.mjs'
import { buildRelease } from './support/release.mjs'

const { values } = parseArgs({
  options: {
    platform: { type: 'string', default: platformHere() },
    binary: { type: 'string' },
    only: { type: 'string' },
  },
})
const packages = join(root, 'packages')

async function pack(folder) {
  const args = ['pack', '--silent', '--pack-destination', packages]
  const name = (await must('Packing', 'npm', args, { cwd: folder, show: false })).trim().split('\n').at(-1)
  console.log(`packages/${name}  ${(statSync(join(packages, name)).size / 1e6).toFixed(2)} MB`)
}

try {
  await installPackages()
  mkdirSync(packages, { recursive: true })
  if (values.only !== 'binary') {
    await buildTypeScript()
    await pack(root)
  }
  if (values.only !== 'main') {
    placeBinary(values.platform, values.binary ?? (await buildRelease(values.platform)))
    await pack(join(root, 'npm', values.platform))
  }
} catch (error) {
  console.error(error instanceof Problem ? error.message : error)
  process.exitCode = 1
}
