import { Celery, Reject } from 'celeriac'

export const app = new Celery('mail')

export const send = app.task({ name: 'mail.send' }, (to: string) => {
  if (!to.includes('@')) throw new Reject(`${to} is no address`)
  return `sent to ${to}`
})
