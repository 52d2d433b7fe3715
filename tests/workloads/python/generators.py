"""Generators: resumed from everywhere, delegating, thrown into, closed, collected."""

import itertools

from marker import mark, run


def numbers(count):
    for number in range(count):
        mark()
        yield number


def delegating(depth):
    mark()
    if depth:
        got = yield from delegating(depth - 1)
    else:
        got = yield from numbers(3)
    mark()
    return got


def listening():
    got = None
    while got != "end":
        try:
            got = yield mark(got)
        except KeyError:
            mark()
        finally:
            mark()


def careful():
    try:
        yield 1
        yield 2
    finally:
        mark()


def resumed_elsewhere(generator):
    next(generator)


def paired():
    for left, right in zip(numbers(3), map(mark, numbers(3))):
        mark()


def through_itertools():
    list(itertools.chain.from_iterable(numbers(2) for _ in range(2)))
    list(itertools.islice(itertools.takewhile(lambda number: mark() is None, numbers(9)), 3))
    for key, group in itertools.groupby(numbers(4), key=lambda number: mark() or number // 2):
        list(group)


def consumed_by_c():
    sum(number for number in numbers(3) if mark() is None)
    "".join(str(number) for number in numbers(3))
    set(numbers(2)), tuple(numbers(2)), dict.fromkeys(numbers(2))
    first, *rest = numbers(3)
    any(mark() for _ in numbers(2))


def sample():
    for _ in range(5):
        list(delegating(6))
        talk = listening()
        next(talk)
        talk.send("more")
        talk.throw(KeyError("a key"))
        try:
            talk.send("end")
        except StopIteration:
            mark()
        generator = numbers(2)
        next(generator)
        resumed_elsewhere(generator)
        closed, collected = careful(), careful()
        next(closed), next(collected)
        closed.close()
        del collected
        paired()
        through_itertools()
        consumed_by_c()


run(sample)
