import { onTestFinished } from 'vitest'

/** Does this when the test that runs has ended, also when it has failed, the last first; in a `beforeAll` never. */
export function afterTest(end: () => Promise<void>): void {
  try {
    onTestFinished(end)
  } catch {
    // Whoever set it up for a whole file ends it in `afterAll`.
  }
}

/** The same at any later call as at the first. */
export function atMostOnce(end: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined
  return () => (done ??= end())
}
