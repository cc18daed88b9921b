"""What round-trips.ts says, one under way at a time."""

import argparse
import json
import time

from tasks import add

parser = argparse.ArgumentParser()
parser.add_argument('--warm', type=int, default=0)
parser.add_argument('--count', type=int, required=True)
options = parser.parse_args()


def call(x):
    started = time.perf_counter()
    total = add.delay(x, 2).get(timeout=60)
    took = time.perf_counter() - started
    if total != x + 2:
        raise AssertionError('%d + 2 is not %r' % (x, total))
    return took * 1000


for number in range(options.warm):
    call(number)
waited = sorted(call(number) for number in range(options.warm, options.warm + options.count))
count = len(waited)
print(json.dumps({'seconds': sum(waited) / 1000, 'p50': waited[count // 2], 'p99': waited[count * 99 // 100]}))
