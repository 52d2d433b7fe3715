"""Threads that wait without the lock of the interpreter, and allocate within such calls, while others have it."""

import os
import queue
import subprocess
import sys
import threading
import time

from marker import kept, mark, note, released, run

ROUNDS = 60


def sleeping():
    for _ in range(ROUNDS):
        time.sleep(0.001)
        mark()


def reading(source):
    while os.read(source, 1):
        mark()


def writing(target):
    for _ in range(ROUNDS):
        os.write(target, b"x")
        mark()
    os.close(target)


def taking(values):
    while values.get() is not None:
        mark()


def giving(values):
    for number in range(ROUNDS):
        values.put(number)
        mark()
    values.put(None)


def busy():
    for number in range(ROUNDS):
        sum(range(2000))
        mark()


def without_the_lock():
    """Others run while malloc does: what the interpreter takes for the running thread is then another one."""
    for _ in range(ROUNDS):
        kept.append(released(note(sys._getframe())))


def starting():
    for _ in range(3):
        subprocess.run(["true"], check=True)
        mark()


def locking(lock):
    for _ in range(ROUNDS):
        with lock:
            time.sleep(0)
            mark()


def sample():
    sys.setswitchinterval(1e-5)
    source, target = os.pipe()
    values = queue.Queue(2)
    lock = threading.Lock()
    work = [(sleeping,), (reading, source), (writing, target), (taking, values), (giving, values)]
    work += [(busy,)] * 2 + [(without_the_lock,)] * 4 + [(locking, lock)] * 3 + [(starting,)]
    threads = [threading.Thread(target=function, args=arguments) for function, *arguments in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(source)


run(sample)
