import { add, app, charge } from './tasks.ts'

const sum = await add.delay(2, 3)
console.log(await sum.get({ timeout: 10 }))

const paid = await charge.applyAsync(['order 17'], { countdown: 0.5 })
console.log(await paid.get({ timeout: 10 }))

await app.close()
