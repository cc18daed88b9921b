import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'

interface Lock {
  packages: Record<string, { optionalDependencies?: Record<string, string>; resolved?: string }>
}

const lock = JSON.parse(readFileSync(join(import.meta.dirname, '../../package-lock.json'), 'utf8')) as Lock
const paths = Object.keys(lock.packages)

test('package-lock.json has the packages of every platform, without which npm ci refuses it', () => {
  const missing = Object.values(lock.packages)
    .flatMap(({ optionalDependencies = {} }) => Object.keys(optionalDependencies))
    .filter((name) => !paths.some((path) => path.endsWith(`node_modules/${name}`)))
  expect(missing).toEqual([])
})

test('package-lock.json names no place that packages come from, so that each installs from its own registry', () => {
  const named = Object.values(lock.packages).filter(({ resolved }) => resolved !== undefined)
  expect(named).toEqual([])
})
