// round-trips.ts WARM COUNT IN_FLIGHT: how long COUNT tasks take from delay() to the result that a worker in another
// process stored, so many under way at once, after WARM others.

import { add, app } from './tasks.ts'

const [warm = 0, count = 0, inFlight = 1] = process.argv.slice(2).map(Number)
let next = 0

async function callUntil(end: number): Promise<void> {
  const lane = async (): Promise<void> => {
    while (next < end) {
      const x = next++
      const result = await add.delay(x, 2)
      const sum = await result.get({ timeout: 60 })
      if (sum !== x + 2) throw new Error(`${x} + 2 is ${x + 2}, not ${sum}`)
    }
  }
  await Promise.all(Array.from({ length: inFlight }, lane))
}

await callUntil(warm)
const begin = performance.now()
await callUntil(warm + count)
const seconds = (performance.now() - begin) / 1000
await app.close()
console.log(JSON.stringify({ seconds }))
