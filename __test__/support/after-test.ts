import { onTestFinished, TestRunner } from 'vitest'

/**
 * Does this when the test that runs has ended, also when it has failed, the last first. Not in a `beforeAll`, whose file ends it in
 * `afterAll`, nor beside other tests, where nobody knows which of them asks.
 */
export function afterTest(end: () => Promise<void>): void {
  const test = TestRunner.getCurrentTest()
  if (test !== undefined && test.concurrent !== true) onTestFinished(end)
}

/** The same at any later call as at the first. */
export function atMostOnce(end: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined
  return () => (done ??= end())
}
