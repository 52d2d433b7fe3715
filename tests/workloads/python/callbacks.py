"""Python that C calls: sorting, comparing, hashing, formatting, matching."""

import bisect
import functools
import heapq
import operator
import re
import weakref

from marker import mark, run


@functools.total_ordering
class Value:
    def __init__(self, value):
        self.value = value

    def __lt__(self, other):
        mark()
        return self.value < other.value

    def __eq__(self, other):
        mark()
        return self.value == other.value

    def __hash__(self):
        mark()
        return hash(self.value)

    def __add__(self, other):
        mark()
        return Value(self.value + other.value)

    def __repr__(self):
        mark()
        return "Value(%r)" % self.value

    def __format__(self, spec):
        mark()
        return format(self.value, spec)

    def __bool__(self):
        mark()
        return True

    def __index__(self):
        mark()
        return self.value

    def __iter__(self):
        mark()
        return iter([self.value])

    def __len__(self):
        mark()
        return 1

    def __contains__(self, value):
        mark()
        return value == self.value


class Missing(dict):
    def __missing__(self, key):
        mark()
        return key


def compare(left, right):
    mark()
    return left - right


def replacement(match):
    mark()
    return match.group(0).upper()


def sorting():
    values = [Value(number) for number in (3, 1, 2)]
    sorted(values)
    values.sort(reverse=True)
    sorted([3, 1, 2], key=functools.cmp_to_key(compare))
    sorted([2, 1], key=lambda number: sorted([number, 1], key=lambda inner: mark() or inner))
    min(values), max([1, 2], key=lambda number: mark() or number)
    heapq.heapify(values)
    bisect.insort(values, Value(0))


def folding():
    functools.reduce(lambda left, right: mark() or left + right, range(4))
    functools.reduce(operator.add, [Value(1), Value(2), Value(3)])
    sum([Value(1), Value(2)], Value(0))
    list(map(lambda left, right: mark(), [1, 2], [3, 4]))
    list(filter(mark, [1, 2]))
    functools.partial(map, mark)([1, 2]).__next__()
    list(iter(functools.partial(next, iter([1, 2, 3])), 3))


def looking_up():
    table = {Value(1): 1, Value(2): 2}
    table[Value(1)]
    Value(3) in table
    Missing()["key"]
    "%(key)s" % Missing()
    1 in Value(1)
    {Value(1), Value(1)}


def formatting():
    "%r %s" % (Value(1), Value(2))
    "{:d} {!r}".format(Value(1), Value(2))
    f"{Value(1):d} {Value(2)!r}"
    repr([Value(1), {"key": Value(2)}])
    re.sub("[a-z]+", replacement, "one two three")
    re.compile("(?P<n>o)").sub(replacement, "foo")


def converting():
    [1, 2, 3][Value(1)]
    list(Value(1)), len(Value(1)), bool(Value(1))
    range(Value(3))
    all([Value(1), Value(2)])


def dying():
    value = Value(1)
    reference = weakref.ref(value, mark)
    del value
    return reference


def sample():
    for _ in range(8):
        sorting()
        folding()
        looking_up()
        formatting()
        converting()
        dying()


run(sample)
