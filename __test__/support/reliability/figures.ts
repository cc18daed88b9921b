/** Figures that a test prints. */

/** The middle and the largest of some numbers of milliseconds, in seconds. */
export function spread(milliseconds: readonly number[]): string {
  const seconds = (value: number): string => `${(value / 1000).toFixed(1)} s`
  const max = milliseconds.length === 0 ? 0 : Math.max(...milliseconds)
  return `median ${seconds(median(milliseconds))}, max ${seconds(max)} (${milliseconds.length})`
}

/** The middle of some numbers, of two in the middle the larger one; 0 of none. */
export function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? 0
}

/** Prints a line. */
export function figure(what: string, value: string | number): void {
  console.log(`FIGURE ${what}: ${value}`)
}
