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
if 'RABBITMQ' in env:
    app.conf.broker_transport_options = {'confirm_publish': True}
    # Once the broker has nothing more to send, a worker leaves messages that it has read alone until something comes again,
    # be it a heartbeat: seen with Celery 5.7 and py-amqp 5.4.
    app.conf.broker_heartbeat = 2

ran = []
began = []
progress = None


@app.task(name='bench.add')
def add(x, y):
    global progress
    began.append(time.time() * 1000)
    if progress is None:
        progress = os.open(os.path.join(env['RAN'], 'progress'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ran.append(x)
    os.write(progress, b'.')
    return x + y


@worker_process_shutdown.connect
@worker_shutdown.connect
def write(**_):
    if ran:
        document = {'firstAt': began[0], 'lastAt': began[-1], 'mainThread': None, 'ran': ran, 'began': began}
        with open(os.path.join(env['RAN'], '%d.json' % os.getpid()), 'w') as file:
            json.dump(document, file)
