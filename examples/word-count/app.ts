// Tasks that read text files: `celeriac -A examples/word-count/app.ts worker` runs them, main.ts sends them.
// CELERY_BROKER_URL and CELERY_RESULT_BACKEND say where; without them that is a file in the working directory.

import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { Celery } from 'celeriac'

export const app = new Celery('word-count', { taskDefaultQueue: 'word-count', resultExpires: 600 })

export const sha256 = app.task({ name: 'files.sha256' }, async (path: string) => {
  const bytes = await readFile(path)
  return createHash('sha256').update(bytes).digest('hex')
})

/** Words are what white space separates, as in `wc -w`. */
export const countWords = app.task({ name: 'files.count_words' }, async (path: string) => {
  const text = await readFile(path, 'utf8')
  return text.match(/\S+/g)?.length ?? 0
})

export const longestLine = app.task({ name: 'files.longest_line' }, async (path: string) => {
  const text = await readFile(path, 'utf8')
  return text.split('\n').reduce((longest, line) => Math.max(longest, line.length), 0)
})

class Unavailable extends Error {
  override readonly name = 'Unavailable'
}

/** Fails twice, and is retried each time; returns the number of the attempt that succeeded. */
export const unreliable = app.task(
  { name: 'unreliable', bind: true, autoretryFor: [Unavailable], maxRetries: 5, defaultRetryDelay: 0.5 },
  (self) => {
    const attempt = self.request.retries + 1
    if (attempt < 3) throw new Unavailable(`attempt ${attempt}`)
    return attempt
  },
)

/** When it runs, in milliseconds since 1970. */
export const timeOfDay = app.task({ name: 'time_of_day' }, () => Date.now())
