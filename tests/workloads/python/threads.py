"""Sixteen threads that take turns within everything they do."""

import sys
import threading

from marker import mark, run

THREADS = 16
ROUNDS = 20


def shallow(thread):
    mark()


def deep(thread, depth):
    if depth:
        deep(thread, depth - 1)
    else:
        mark()


def sorting(thread):
    sorted([3, 1, 2], key=lambda value: mark(value) or value)


def generating(thread):
    def values():
        for value in range(2):
            mark()
            yield value

    list(values())


class Worker(threading.Thread):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def run(self):
        for turn in range(ROUNDS):
            shallow(self.number)
            deep(self.number, self.number + turn % 5)
            sorting(self.number)
            generating(self.number)


def sample():
    sys.setswitchinterval(1e-5)
    workers = [Worker(number) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


run(sample)
