import { InvalidArgumentError } from 'commander'

/** Reads a JSON array. */
export function jsonArray(text: string): unknown[] {
  const value = json(text)
  if (!Array.isArray(value))
    throw new InvalidArgumentError('It must be a JSON array, such as \'[1, "two"]\'.')
  return value
}

/** Reads a JSON object. */
export function jsonObject(text: string): Record<string, unknown> {
  const value = json(text)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new InvalidArgumentError('It must be a JSON object, such as \'{"x": 1}\'.')
  }
  return value as Record<string, unknown>
}

function json(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new InvalidArgumentError(
      `It is not valid JSON: ${error instanceof Error ? error.message : String(error)}.`,
    )
  }
}

/** Reads names with commas between them. */
export function commaList(text: string): string[] {
  return text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
}

/** Reads a number of seconds. */
export function seconds(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value))
    throw new InvalidArgumentError('It must be a number of seconds.')
  return value
}

/** Reads a whole number from `minimum`. */
export function wholeNumber(minimum: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (text.trim() === '' || !Number.isInteger(value) || value < minimum) {
      throw new InvalidArgumentError(`It must be a whole number from ${minimum}.`)
    }
    return value
  }
}

/** Reads a time in ISO 8601. */
export function isoTime(text: string): string {
  if (!/^\d{4}-\d\d-\d\d/.test(text) || Number.isNaN(Date.parse(text))) {
    throw new InvalidArgumentError('It must be a time in ISO 8601, such as 2026-01-31T09:00:00Z.')
  }
  return text
}

/** Reads seconds, or a time in ISO 8601. */
export function secondsOrTime(text: string): number | string {
  const value = Number(text)
  return text.trim() !== '' && Number.isFinite(value) ? value : isoTime(text)
}
