"""produce.py WARM COUNT: how long COUNT calls of delay() take, one after the other, after WARM others."""

import json
import sys
import time

from tasks import add

warm, count = map(int, sys.argv[1:])
for number in range(warm):
    add.delay(number, 2)
begin = time.perf_counter()
for number in range(warm, warm + count):
    add.delay(number, 2)
print(json.dumps({'seconds': time.perf_counter() - begin}))
