"""Greenlets: many stacks of one thread, switched within everything."""

import threading

from marker import absent, mark, run

try:
    import greenlet
except ImportError:
    absent("greenlet")


def deep(depth):
    if depth:
        return deep(depth - 1)
    mark()
    greenlet.getcurrent().parent.switch(depth)
    mark()


def in_sort():
    sorted([2, 1], key=lambda number: mark() or greenlet.getcurrent().parent.switch(number) or mark() or number)


def in_generator():
    def numbers():
        for number in range(2):
            mark()
            greenlet.getcurrent().parent.switch(number)
            mark()
            yield number

    list(numbers())


def nesting():
    inner = greenlet.greenlet(lambda: mark() or deep(2))
    inner.switch()
    mark()
    inner.switch()
    mark()


def rounds():
    for turn in range(10):
        tasks = [greenlet.greenlet(lambda depth=depth: deep(depth)) for depth in range(8)]
        tasks += [greenlet.greenlet(function) for function in (in_sort, in_generator, nesting)]
        while tasks:
            for task in tasks:
                task.switch()
            tasks = [task for task in tasks if not task.dead]
        mark()


def sample():
    threads = [threading.Thread(target=rounds) for _ in range(2)]
    for thread in threads:
        thread.start()
    rounds()
    for thread in threads:
        thread.join()


run(sample)
