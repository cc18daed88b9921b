/** Figures that a test prints and does not judge. */

/** The middle and the largest of some numbers of milliseconds, in seconds. */
export function spread(milliseconds: readonly number[]): string {
  const sorted = milliseconds.toSorted((a, b) => a - b)
  const seconds = (value = 0): string => `${(value / 1000).toFixed(1)} s`
  return `median ${seconds(sorted[sorted.length >> 1])}, max ${seconds(sorted.at(-1))} (${sorted.length})`
}

/** Prints a line. */
export function figure(what: string, value: string | number): void {
  console.log(`FIGURE ${what}: ${value}`)
}
