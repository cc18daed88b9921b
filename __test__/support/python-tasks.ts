/** The tasks of the Python workers that the tests start: the twins of those in apps/tasks.ts. */
export const pythonTasks = `
import os, time
from celery.exceptions import Ignore, Reject

def write(line):
    with open(os.environ['LEDGER'], 'a') as ledger:
        ledger.write('%s\\n' % line)

def moment(word, task):
    write('%s %s %d %d' % (word, task.request.id, os.getpid(), time.time() * 1000))

def begin(task):
    moment('begin', task)

def end(task):
    moment('end', task)

@app.task(name='py.add')
def add(x, y):
    return x + y

@app.task(name='py.echo')
def echo(*args, **kwargs):
    return [list(args), kwargs]

@app.task(name='py.fail')
def fail(what):
    raise ValueError('no %s left' % what, 7)

@app.task(name='py.retry', bind=True, max_retries=5)
def retry(self, attempts, countdown=0):
    write('attempt %s' % self.request.id)
    if self.request.retries < attempts:
        raise self.retry(countdown=countdown, exc=ValueError('not yet'))
    return self.request.retries

@app.task(name='py.write')
def write_line(line):
    write(line)

@app.task(name='py.times', bind=True)
def times(self):
    from datetime import datetime
    now = time.time() * 1000
    eta = self.request.eta
    return [now, datetime.fromisoformat(eta).timestamp() * 1000 if eta else None]

@app.task(name='py.request', bind=True)
def request(self, x):
    write('request %s %s %s' % (self.request.id, self.request.root_id, self.request.parent_id))
    return {'x': x, 'id': self.request.id, 'root_id': self.request.root_id, 'parent_id': self.request.parent_id}

@app.task(name='py.ask_node', bind=True)
def ask_node(self):
    return {'self': self.request.id, 'child': app.send_task('node.request', queue='node').id}

# Under the name of its twin, for queues that both kinds of workers take from.
@app.task(name='node.work', bind=True, acks_late=True)
def work(self, milliseconds):
    begin(self)
    time.sleep(milliseconds / 1000)
    end(self)

@app.task(name='node.where', bind=True, acks_late=True)
def where(self, milliseconds):
    begin(self)
    time.sleep(milliseconds / 1000)
    end(self)
    return os.getpid()
`
