"""Plain calls and recursion: a thousand samples on random paths."""

import random

from marker import mark, run

choose = random.Random(1)


def leaf(depth):
    mark()


def straight(depth):
    step(depth)


def twice(depth):
    if depth % 2:
        return step(depth)
    return step(
        depth
    )


def guarded(depth):
    try:
        step(depth)
    finally:
        depth = None


def handling(depth):
    try:
        raise ValueError(depth)
    except ValueError:
        step(depth)


def unpacking(*depths, **named):
    step(*depths)


def named(depth):
    unpacking(depth, other=depth)


def recursive(depth, more=5):
    if more:
        recursive(depth, more - 1)
    else:
        step(depth)


def step(depth):
    if depth == 0:
        leaf(depth)
    else:
        choose.choice(WAYS)(depth - 1)


WAYS = [straight, twice, guarded, handling, unpacking, named, recursive]


def sample():
    for _ in range(1000):
        step(choose.randrange(1, 12))


run(sample)
