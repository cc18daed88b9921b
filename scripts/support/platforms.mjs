// The platforms that a binary is released for: the folders of npm/.

import { copyFileSync, readFileSync, readdirSync, renameSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

export const platforms = readdirSync(join(root, 'npm')).toSorted()

export function platformHere() {
  const { platform, arch } = process
  if (platform === 'win32') return `win32-${arch}-msvc`
  if (platform !== 'linux') return `${platform}-${arch}`
  const { glibcVersionRuntime } = process.report.getReport().header
  return `linux-${arch}-${glibcVersionRuntime === undefined ? 'musl' : 'gnu'}`
}

export const binaryName = (platform) => `celeriac.${platform}.node`

export function placeBinary(platform, binary, folder = root) {
  const place = join(folder, 'npm', platform, binaryName(platform))
  copyFileSync(binary, `${place}.part`)
  renameSync(`${place}.part`, place)
}

export function optionalDependencies(folder = root) {
  const manifests = platforms.map((platform) =>
    JSON.parse(readFileSync(join(folder, 'npm', platform, 'package.json'), 'utf8')),
  )
  return Object.fromEntries(manifests.map(({ name, version }) => [name, version]))
}
