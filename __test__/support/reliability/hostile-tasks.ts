// The tasks of workers that are sent what nobody meant to send. Broker and backend come from the environment.
import { writeSync, openSync } from 'node:fs'
import { Celery } from 'celeriac'

export const app = new Celery('hostile')
app.conf.update({ workerLease: Number(process.env['WORKER_LEASE'] ?? 30) })

const ledger = openSync(process.env['LEDGER'] ?? '', 'a')

/** Ids are whatever a message says: as JSON they are one word on one line. */
function ran(word: string, id: string, rest = ''): void {
  writeSync(ledger, `${word} ${JSON.stringify(id)}${rest}\n`)
}

app.task({ name: 'hostile.late', bind: true }, (self) => ran('ran', self.request.id))

app.task({ name: 'hostile.early', bind: true, acksLate: false }, (self) => ran('ran', self.request.id))

app.task({ name: 'hostile.good', bind: true }, (self) => ran('good', self.request.id))

/** Says how long its argument is. */
app.task({ name: 'hostile.length', bind: true }, (self, text: string) => {
  ran('length', self.request.id, ` ${text.length}`)
  return text.length
})
