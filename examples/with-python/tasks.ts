import { Celery } from 'celeriac'

const url = process.env.REDIS_URL ?? 'redis://localhost'
export const app = new Celery('pages', { broker: url, backend: url })

export const title = app.task(
  { name: 'pages.title', params: ['html', 'max_length?'] },
  (html: string, maxLength: number = 60) =>
    /<title>(.*?)<\/title>/s.exec(html)?.[1]?.slice(0, maxLength) ?? null,
)
