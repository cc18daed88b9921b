// npm runs this for `npm version`: the version in package.json becomes that of everything, and part of its commit.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Problem, build, must, root, writeWhole } from './support/environment.mjs'

const shown = { show: false }
try {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const file = join(root, 'Cargo.toml')
  const cargo = readFileSync(file, 'utf8')
  writeWhole(file, cargo.replace(/(?<=\[workspace\.package\]\nversion = ").+(?=")/, version))
  await must('Writing the version to Cargo.lock', 'cargo', ['update', '--workspace', '--offline'], shown)
  await must('Writing the version to npm/', 'npx', ['napi', 'version'], shown)
  // The loader of the core names it too.
  await build()
  const files = ['Cargo.toml', 'Cargo.lock', 'npm', 'native.cjs', 'native.d.cts']
  await must('Adding the files', 'git', ['add', '--', ...files], shown)
} catch (error) {
  console.error(error instanceof Problem ? error.message : error)
  process.exitCode = 1
}
