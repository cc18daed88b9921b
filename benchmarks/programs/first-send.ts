// Sends the task with the number `--from`, and says when the broker has it.

import { numbers } from './arguments.ts'
import { add, app } from './tasks.ts'

await add.delay(numbers({ from: 0 }).from, 2)
process.stdout.write('sent\n')
await app.close()
