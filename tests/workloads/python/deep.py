"""Recursion of ten thousand frames, and the same with C between them."""

import sys
import threading

from marker import mark, run

DEPTH = 10000
# Before 3.11 a frame of Python takes some of C; what is not touched takes nothing.
STACK_BYTES = 1 << 30


def down(depth):
    if depth % 2500 == 0:
        mark()
    if depth:
        down(depth - 1)
    return depth


def through_c(depth):
    if depth % 40 == 0:
        mark()
    if depth:
        sorted([depth], key=lambda number: through_c(number - 1))


def work():
    for depth in (0, 1, 50, 100, 120, 130, 200, 1000):
        down(depth)
    down(DEPTH)
    through_c(160)


def sample():
    sys.setrecursionlimit(3 * DEPTH)
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


run(sample)
