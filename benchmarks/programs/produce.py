"""How long --count calls of delay() take, one after the other, after --warm others; with --batch, groups of so many."""

import argparse
import json
import time

from celery import group

from tasks import add

parser = argparse.ArgumentParser()
for name in ('warm', 'count', 'batch'):
    parser.add_argument('--' + name, type=int, default=0)
options = parser.parse_args()


def send(begin, end):
    if options.batch == 0:
        for number in range(begin, end):
            add.delay(number, 2)
        return
    for first in range(begin, end, options.batch):
        group(add.s(number, 2) for number in range(first, min(first + options.batch, end))).apply_async()


send(0, options.warm)
started = time.perf_counter()
send(options.warm, options.warm + options.count)
print(json.dumps({'seconds': time.perf_counter() - started}))
