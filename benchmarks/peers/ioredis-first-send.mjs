// How soon a program with nothing but ioredis has sent its first LPUSH.

import { Redis } from 'ioredis'
import { QUEUE } from './support.mjs'

const redis = new Redis(process.env.REDIS_URL)
await redis.lpush(QUEUE, 'x')
process.stdout.write('sent\n')
await redis.quit()
