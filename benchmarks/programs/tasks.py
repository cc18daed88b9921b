"""The tasks of Python's workers; what tasks.ts says of RAN holds here too, for each process of a pool."""

import json
import os
import time

from celery import Celery
from celery.signals import worker_process_shutdown, worker_shutdown

app = Celery('bench')
app.conf.update(task_default_queue='bench', broker_connection_retry_on_startup=True)

ran = []
first_at = None


@app.task(name='bench.add')
def add(x, y):
    global first_at
    if first_at is None:
        first_at = time.time() * 1000
    ran.append(x)
    return x + y


@worker_process_shutdown.connect
@worker_shutdown.connect
def write(**_):
    if ran:
        with open(os.path.join(os.environ['RAN'], '%d.json' % os.getpid()), 'w') as file:
            json.dump({'firstAt': first_at, 'ran': ran}, file)
