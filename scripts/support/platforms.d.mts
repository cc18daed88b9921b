/** The platforms, by the names of their folders in npm/. */
export const platforms: string[]

/** The platform that this process runs on. */
export function platformHere(): string

/** The name of a platform's binary. */
export function binaryName(platform: string): string

/** Puts a binary into the folder of its platform, from which it is packed; `folder` is a clone, ours unless it is said. */
export function placeBinary(platform: string, binary: string, folder?: string): void

/** The packages with the binaries by their exact versions: what the package that is published optionally depends on. */
export function optionalDependencies(folder?: string): Record<string, string>
