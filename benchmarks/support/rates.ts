/** What the rounds of one measurement found, per second. */
export interface Rates {
  median: number
  min: number
  max: number
  rounds: number[]
}

export function summarize(rounds: readonly number[]): Rates {
  const sorted = rounds.toSorted((a, b) => a - b)
  const at = (index: number): number => sorted[index] ?? Number.NaN
  const middle = (sorted.length - 1) / 2
  return {
    median: (at(Math.floor(middle)) + at(Math.ceil(middle))) / 2,
    min: at(0),
    max: at(sorted.length - 1),
    rounds: [...rounds],
  }
}

/** `12,345 (11,000–13,000)`: median, least and most. */
export function describe({ median, min, max }: Rates): string {
  const whole = (rate: number): string => Math.round(rate).toLocaleString('en')
  return `${whole(median)} (${whole(min)}–${whole(max)})`
}
