"""Calls itself so many times, then allocates 100 blocks of 4 000 bytes. Argument: how deep."""

import sys
import threading


def innermost(kept):
    for _ in range(100):
        kept.append(bytes(4000))


def down(depth, kept):
    if depth == 0:
        innermost(kept)
    else:
        down(depth - 1, kept)


def main():
    depth = int(sys.argv[1])
    sys.setrecursionlimit(depth + 1000)
    threading.stack_size(256 << 20)
    kept = []
    print("ready", flush=True)
    sys.stdin.readline()
    thread = threading.Thread(target=down, args=(depth, kept))
    thread.start()
    thread.join()
    print("done", flush=True)
    sys.stdin.readline()


main()
