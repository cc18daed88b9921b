// `npm pack` and `npm publish` call this before and after: `add` lets package.json name the packages with the binaries,
// `remove` takes them out again. In the repository they are not named, because every install there would ask for them before they are
// published.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root, writeWhole } from './support/environment.mjs'
import { optionalDependencies } from './support/platforms.mjs'

const file = join(root, 'package.json')
const manifest = JSON.parse(readFileSync(file, 'utf8'))
delete manifest.optionalDependencies

if (process.argv[2] === 'add') {
  const missing = manifest.files.filter((name) => !existsSync(join(root, name)))
  if (missing.length > 0) {
    console.error(`${missing.join(', ')} is missing; run: npm run build`)
    process.exit(1)
  }
  const binaries = optionalDependencies()
  const other = Object.entries(binaries).filter(([, version]) => version !== manifest.version)
  if (other.length > 0) {
    const names = other.map(([name, version]) => `${name} ${version}`).join(', ')
    console.error(`celeriac is ${manifest.version}, but npm/ has ${names}; run: npx napi version`)
    process.exit(1)
  }
  manifest.optionalDependencies = binaries
}
writeWhole(file, `${JSON.stringify(manifest, undefined, 2)}\n`)
