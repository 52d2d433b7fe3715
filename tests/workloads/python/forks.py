"""A parent and its children, made in three ways, each of which leaks 100 blocks of 9 000 bytes in a function of its own.

Children say `child KIND PID` and stay until standard input of the first process ends.
"""

import multiprocessing
import os
import sys
import time

# With room for all, so that it does not grow.
KEPT = [None] * 200


def leak_in_parent():
    leak()


def leak_in_fork():
    leak()


def leak_in_process(kind, ended):
    # Until the tracer has taken note of the child.
    time.sleep(PAUSE)
    leak()
    print("child", kind, os.getpid(), flush=True)
    ended.wait()


def leak():
    free = KEPT.index(None)
    for place in range(free, free + 100):
        KEPT[place] = bytes(9000)


PAUSE = 1.0


def main():
    print("ready", flush=True)
    sys.stdin.readline()
    leak_in_parent()
    fork = multiprocessing.get_context("fork")
    ended = fork.Event()
    pid = os.fork()
    if pid == 0:
        time.sleep(PAUSE)
        leak_in_fork()
        print("child os.fork", os.getpid(), flush=True)
        ended.wait()
        os._exit(0)
    children = [fork.Process(target=leak_in_process, args=("fork", ended))]
    spawn = multiprocessing.get_context("spawn")
    ended_too = spawn.Event()
    children.append(spawn.Process(target=leak_in_process, args=("spawn", ended_too)))
    for child in children:
        child.start()
    print("done", flush=True)
    sys.stdin.readline()
    ended.set()
    ended_too.set()
    for child in children:
        child.join()
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
