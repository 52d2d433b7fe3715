"""Functions that are freed as soon as they have allocated: `brief.py COUNT`.

Function number N is called `serial_N`, allocates one `bytearray` of FIRST + STEP * N bytes, which is kept, and is gone before
the next is made. So its code object lives for microseconds, and its address is given to others.
"""

import sys

FIRST = 100000
STEP = 16

kept = []


def call(serial):
    scope = {"kept": kept, "size": FIRST + STEP * serial}
    source = f"def serial_{serial}():\n    kept.append(bytearray(size))\nserial_{serial}()\n"
    exec(source, scope)


print("ready", flush=True)
sys.stdin.readline()
for serial in range(int(sys.argv[1])):
    call(serial)
print("told", flush=True)
sys.stdin.readline()
