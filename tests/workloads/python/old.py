"""Runs on every version there is: says `ready`, waits for a line, leaks 100 blocks of 6 000 bytes, says `done`."""

import sys

KEPT = []


def leak():
    for number in range(100):
        KEPT.append(bytearray(6000 + number))


sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.readline()
leak()
sys.stdout.write("done\n")
sys.stdout.flush()
sys.stdin.readline()
