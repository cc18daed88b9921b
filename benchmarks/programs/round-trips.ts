// How long `--count` tasks take from delay() to the result that a worker in another process stored, `--in-flight` under way
// at once, after `--warm` others: all together, and the median and the 99th percentile of one, in milliseconds.

import { numbers } from './arguments.ts'
import { timed } from './main-thread.ts'
import { add, app } from './tasks.ts'

const options = numbers({ warm: 0, count: 0, 'in-flight': 1 })
const waited: number[] = []
let next = 0

async function callUntil(end: number): Promise<void> {
  const lane = async (): Promise<void> => {
    while (next < end) {
      const x = next++
      const begin = performance.now()
      const result = await add.delay(x, 2)
      const sum = await result.get({ timeout: 60 })
      waited.push(performance.now() - begin)
      if (sum !== x + 2) throw new Error(`${x} + 2 is ${x + 2}, not ${sum}`)
    }
  }
  await Promise.all(Array.from({ length: options['in-flight'] }, lane))
}

await callUntil(options.warm)
waited.length = 0
const found = await timed(options.count, () => callUntil(options.warm + options.count))
await app.close()
waited.sort((a, b) => a - b)
const at = (share: number): number | undefined => waited[Math.floor(waited.length * share)]
console.log(JSON.stringify({ ...found, p50: at(0.5), p99: at(0.99) }))
