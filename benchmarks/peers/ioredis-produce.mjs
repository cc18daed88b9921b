// How long `--count` calls of LPUSH with the bytes of the file MESSAGE take, after `--warm` others, `--in-flight` under way at
// once.

import { readFileSync } from 'node:fs'
import { Redis } from 'ioredis'
import { inLanes, numbers, QUEUE, timed } from './support.mjs'

const options = numbers({ warm: 0, count: 0, 'in-flight': 1 })
const message = readFileSync(process.env.MESSAGE)
const redis = new Redis(process.env.REDIS_URL)
const send = (count) => inLanes(0, count, options['in-flight'], () => redis.lpush(QUEUE, message))
await send(options.warm)
const found = await timed(options.count, () => send(options.count))
await redis.quit()
console.log(JSON.stringify(found))
