import os

from celery import Celery

url = os.environ.get('REDIS_URL', 'redis://localhost')
app = Celery('reports', broker=url, backend=url)


@app.task(name='reports.total')
def total(prices, *, discount=0):
    if discount > 1:
        raise ValueError('a discount is a part of the price', discount)
    return sum(prices) * (1 - discount)
