import { app, send } from './tasks.ts'

// The worker rejects the one, and does not know the other yet.
await send.delay('nowhere')
await app.sendTask('mail.digest', ['team@example.org'])

await app.close()
