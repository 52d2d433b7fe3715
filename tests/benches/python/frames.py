"""frames.py KIND DEPTH SECONDS: allocates blocks of libc at DEPTH Python frames, for SECONDS.

KIND `plain`: Python functions that call each other. `mixed`: each is called by C code, `list(map(...))`.

Prints `ready` and waits for a line on standard input before the work; prints `done` after it, and waits again.
"""

import sys
import time


def work(stop):
    while time.perf_counter() < stop:
        for _ in range(100):
            # Larger than what CPython takes from its own arenas.
            bytearray(4096)
    print("done", flush=True)
    sys.stdin.readline()


def plain(depth, stop):
    if depth > 1:
        plain(depth - 1, stop)
    else:
        work(stop)


def mixed(depth, stop):
    if depth > 1:
        list(map(mixed, [depth - 1], [stop]))
    else:
        work(stop)


kind = {"plain": plain, "mixed": mixed}[sys.argv[1]]
print("ready", flush=True)
sys.stdin.readline()
kind(int(sys.argv[2]), time.perf_counter() + float(sys.argv[3]))
