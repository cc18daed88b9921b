// produce.ts WARM COUNT IN_FLIGHT: how long COUNT calls of delay() take, so many under way at once, after WARM others.

import { add, app } from './tasks.ts'

const [warm = 0, count = 0, inFlight = 1] = process.argv.slice(2).map(Number)
let next = 0

async function sendUntil(end: number): Promise<void> {
  const lane = async (): Promise<void> => {
    while (next < end) await add.delay(next++, 2)
  }
  await Promise.all(Array.from({ length: inFlight }, lane))
}

await sendUntil(warm)
const begin = performance.now()
await sendUntil(warm + count)
const seconds = (performance.now() - begin) / 1000
await app.close()
console.log(JSON.stringify({ seconds }))
