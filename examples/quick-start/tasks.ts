import { Celery } from 'celeriac'

export const app = new Celery('shop')

export const add = app.task({ name: 'shop.add' }, (x: number, y: number) => x + y)

export const charge = app.task(
  { name: 'shop.charge', bind: true, maxRetries: 5, autoretryFor: [RangeError], retryBackoff: 0.1 },
  async (self, order: string) => {
    // The bank is busy the first time.
    if (self.request.retries === 0) throw new RangeError('the bank is busy')
    return `${order} is paid, attempt ${self.request.retries + 1}`
  },
)
