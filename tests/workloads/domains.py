"""Keeps what it is told to keep, and says by how many blocks CPython's allocator has grown.

A line on standard input is a command; the answer is a line on standard output. Between commands nothing is allocated that
stays, but for a little work that lets a trial see the allocator at work, until the command `quiet`.
"""

import gc
import os
import queue
import select
import sys
import threading


class Slotted:
    __slots__ = ("value",)


KEPT = []


def instances(places):
    for at in range(len(places)):
        places[at] = Slotted()


def dicts(places):
    for at in range(len(places)):
        places[at] = {at: at}


def strings(places):
    for at in range(len(places)):
        places[at] = "%d of a kind" % at


def large(places):
    for at in range(len(places)):
        places[at] = b"x" * (1000 + at % 7)


def mebibyte(places):
    for at in range(len(places)):
        places[at] = bytearray(1 << 20)


def churn(places):
    """Allocates and frees all kinds of blocks; what stays stays in the last round."""
    for _ in range(20):
        for at in range(len(places)):
            places[at] = (at, [at] * (at % 90), {at: str(at)}, b"x" * (at % 700))


def handed_over(places):
    """Blocks that one thread makes and another frees, but for one in ten."""
    line = queue.Queue(100)

    def take():
        for at in range(len(places)):
            block = line.get()
            if at % 10 == 0:
                places[at] = block

    thread = threading.Thread(target=take)
    thread.start()
    for at in range(len(places)):
        line.put([at, str(at)])
    thread.join()


def growth(work, count):
    before = sys.getallocatedblocks()
    places = [None] * count
    KEPT.append(places)
    work(places)
    gc.collect()  # what the interpreter keeps for itself
    return sys.getallocatedblocks() - before


def busy():
    """Something of many sizes, half of which stays for a while."""
    for at in range(200):
        KEPT[0].append([at, str(at) * (at % 9), {at: at}, (at, at * 1.5), b"x" * (at % 400)])
    del KEPT[0][:-2000]


def main():
    gc.disable()
    KEPT.append([])
    for name in ("instances", "dicts", "strings", "large"):
        growth(globals()[name], 10)  # what the first call makes is not counted later
    KEPT[1:] = []
    print(os.getpid(), flush=True)
    quiet = False
    while True:
        wait = None if quiet else 0.002
        if not select.select([0], [], [], wait)[0]:
            busy()
            continue
        name, *count = sys.stdin.readline().split()
        if name == "quiet":
            quiet = True
            gc.collect()
            print(0, flush=True)
        else:
            print(growth(globals()[name], int(count[0])), flush=True)


main()
