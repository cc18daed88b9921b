"""The tasks of Python's workers; what tasks.ts says of RAN holds here too, for each process of a pool. None of them knows
how many the others ran, so each writes a byte into a file `progress` for every task.
"""

import json
import os
import time

from celery import Celery
from celery.signals import worker_process_shutdown, worker_shutdown

env = os.environ
app = Celery('bench')
app.conf.update(task_default_queue=env.get('QUEUE', 'bench'), broker_connection_retry_on_startup=True)
if 'IGNORE_RESULT' in env:
    app.conf.task_ignore_result = env['IGNORE_RESULT'] == '1'
if 'ACKS_LATE' in env:
    app.conf.task_acks_late = env['ACKS_LATE'] == '1'
if 'PREFETCH' in env:
    app.conf.worker_prefetch_multiplier = int(env['PREFETCH'])
if 'CONFIRM' in env:
    app.conf.broker_transport_options = {'confirm_publish': True}

ran = []
first_at = None
last_at = None
progress = None


@app.task(name='bench.add')
def add(x, y):
    global first_at, last_at, progress
    last_at = time.time() * 1000
    if first_at is None:
        first_at = last_at
        progress = os.open(os.path.join(env['RAN'], 'progress'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ran.append(x)
    os.write(progress, b'.')
    return x + y


@worker_process_shutdown.connect
@worker_shutdown.connect
def write(**_):
    if ran:
        document = {'firstAt': first_at, 'lastAt': last_at, 'mainThread': None, 'ran': ran}
        with open(os.path.join(env['RAN'], '%d.json' % os.getpid()), 'w') as file:
            json.dump(document, file)
