// Hashes the text files of the working directory and counts their words, each as a task, and checks every result.
// A worker must be running: see README.md. The first argument is how many tasks are under way at once.

import { app, countWords, longestLine, sha256, timeOfDay, unreliable } from './app.ts'
import { forEachOf } from './concurrently.ts'
import { textFiles } from './files.ts'
import { Progress } from './progress.ts'
import { type Measured, report } from './report.ts'

/** At least so many, for a rate that says something: the files are gone through again and again. */
const TASKS = 4000
/** Seconds. */
const COUNTDOWN = 2

async function main(concurrency: number, signal: AbortSignal): Promise<Measured> {
  const waiting = { timeout: 60, signal }
  const paths = textFiles()
  const calls = paths.flatMap((path) => [sha256, countWords, longestLine].map((task) => ({ task, path })))
  const all = Array.from({ length: Math.ceil(TASKS / calls.length) }, () => calls).flat()

  // The first result says that a worker is there.
  await (await timeOfDay.delay()).get(waiting)

  const retried = await unreliable.delay()
  const calledAt = Date.now()
  const delayed = await timeOfDay.applyAsync([], { countdown: COUNTDOWN })

  const results: unknown[] = []
  const latencies: number[] = []
  const begin = performance.now()
  const progress = new Progress(all.length)
  try {
    await forEachOf(all, concurrency, async ({ task, path }, index) => {
      const sentAt = performance.now()
      const result = await task.delay(path)
      results[index] = await result.get(waiting)
      latencies.push(performance.now() - sentAt)
      progress.advance()
    })
  } finally {
    progress.end()
  }
  const seconds = (performance.now() - begin) / 1000

  // A task that is called like a function runs here, without a worker.
  const direct = await Promise.all(calls.map(({ task, path }) => task(path)))
  const counts = await Promise.all(paths.map((path) => countWords(path)))
  return {
    files: paths.length,
    words: counts.reduce((sum, count) => sum + count, 0),
    tasks: all.length,
    seconds,
    latencies,
    attempts: await retried.get(waiting),
    countdown: COUNTDOWN,
    delay: ((await delayed.get(waiting)) - calledAt) / 1000,
    wrong: results.filter((result, index) => result !== direct[index % direct.length]).length,
  }
}

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => interrupted.abort())

try {
  const measured = await main(Number(process.argv[2] ?? 100), interrupted.signal)
  console.log(report(measured))
  const asExpected = measured.wrong === 0 && measured.attempts === 3 && measured.delay >= COUNTDOWN
  if (!asExpected) process.exitCode = 1
} catch (error) {
  process.exitCode = interrupted.signal.aborted ? 130 : 1
  if (!interrupted.signal.aborted) console.error(error instanceof Error ? error.message : error)
} finally {
  await app.close()
}
