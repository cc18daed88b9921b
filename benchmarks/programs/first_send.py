"""What first-send.ts says."""

import sys

from tasks import add

add.delay(int(sys.argv[2]), 2)
print('sent', flush=True)
