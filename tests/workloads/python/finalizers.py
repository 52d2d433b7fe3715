"""The collector runs wherever an object is made, and its finalizers allocate there."""

import gc
import weakref

from marker import mark, run

ROUNDS = 100


class Knot:
    """A cycle."""

    def __init__(self, others=()):
        self.own = self
        self.others = others

    def __del__(self):
        mark()


class Quiet:
    def __init__(self):
        self.own = self


def generator():
    try:
        yield
    finally:
        mark()


def by_hand(depth):
    if depth:
        return by_hand(depth - 1)
    knot = Knot([Knot(), Knot()])
    del knot
    gc.collect()


def by_chance():
    for _ in range(30):
        Knot([[] for _ in range(3)])


def references():
    kept = [Quiet() for _ in range(3)]
    watched = [weakref.ref(quiet, mark) for quiet in kept]
    weakref.finalize(kept[0], mark)
    kept.clear()
    gc.collect()
    return watched


def started():
    cycle = [generator()]
    next(cycle[0])
    cycle.append(cycle)
    del cycle
    gc.collect()


def callback(phase, info):
    mark()


def sample():
    gc.set_threshold(20, 2, 2)
    for turn in range(ROUNDS):
        by_hand(turn % 5)
        by_chance()
        references()
        started()
        if turn == ROUNDS // 2:
            gc.callbacks.append(callback)
    gc.callbacks.clear()
    gc.set_threshold(700, 10, 10)


run(sample)
