import { app } from './tasks.ts'

const { deadLetters } = app

// All of them, oldest first, a page at a time: they come without their bytes.
for await (const { reason, task, queue } of deadLetters.scan()) console.log(reason, task, queue)

// One with its original bytes, and with what they say.
const [letter] = await deadLetters.list({ reason: 'rejected', limit: 1 })
if (letter !== undefined) {
  const { raw, message } = await deadLetters.get(letter.id)
  console.log(raw.length === letter.size, message?.task, message?.argsrepr)
}

// Once a worker knows the task, its messages are sent again. What is left is of no use to anybody.
console.log(await deadLetters.replay({ reason: 'unknown-task', task: 'mail.digest' }))
console.log(await deadLetters.drop({ reason: 'rejected' }))

await app.close()
