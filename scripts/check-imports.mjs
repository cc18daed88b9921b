// Holds the direction of the imports between the folders of lib/: a file imports its own layer and those below it, and
// nothing but lib/native.ts reaches the native core. What imports only types may name those above: nothing of it is left
// at run time.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'

import { root } from './support/environment.mjs'

/** From the top to the bottom. A name is a folder of lib/, or a file; `app` are the files of lib/ that are not named. */
const LAYERS = [
  ['cli/'],
  ['worker/', 'beat/', 'control/', 'events/'],
  ['app'],
  ['canvas/', 'results/', 'serialization/', 'config/', 'log/', 'call-options.ts', 'current-task.ts'],
  ['native.ts', 'native-missing.ts'],
  ['errors.ts'],
]

const IMPORT =
  /^\s*(?:import|export)\b[^'"]*?from\s*['"]([^'"]+)['"]|^\s*import\s*['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/gm

const lib = join(root, 'lib')
const problems = new Set()

for (const file of sources(lib)) {
  const path = relative(root, file)
  for (const match of readFileSync(file, 'utf8').matchAll(IMPORT)) {
    if (/^\s*(?:import|export)\s+type\b/.test(match[0])) continue
    const target = match[1] ?? match[2] ?? match[3]
    if (target === '#native') {
      if (path !== 'lib/native.ts') problems.add(`${path} imports '#native': only lib/native.ts does`)
      continue
    }
    if (!target.startsWith('.')) continue
    const imported = relative(lib, join(dirname(file), target))
    if (imported.startsWith('..')) {
      // The command line hands its own copy of the public API to the apps that it loads.
      const isPublic = imported === '../index.ts' && relative(lib, file).startsWith('cli')
      if (!imported.endsWith('package.json') && !isPublic)
        problems.add(`${path} imports ${target}, which is outside of lib/`)
      continue
    }
    const from = layer(relative(lib, file))
    const to = layer(imported)
    if (to.rank < from.rank)
      problems.add(`${path} (${from.name}) imports ${target} (${to.name}), which is above it`)
  }
}

if (problems.size > 0) {
  console.error([...problems].join('\n'))
  process.exit(1)
}

function sources(directory) {
  const names = readdirSync(directory, { recursive: true, encoding: 'utf8' })
  return names.filter((name) => name.endsWith('.ts')).map((name) => join(directory, name))
}

function layer(path) {
  const name = path.slice(0, path.indexOf('/') + 1) || path
  const rank = LAYERS.findIndex((names) => names.includes(name))
  if (rank >= 0) return { name, rank }
  if (name.endsWith('/')) problems.add(`lib/${name} stands in no layer: name it in scripts/check-imports.mjs`)
  return { name: 'app', rank: LAYERS.findIndex((names) => names.includes('app')) }
}
