"""Comprehensions, which are functions of their own before 3.12, and mostly are not since."""

import asyncio

from marker import mark, run


def value(number):
    mark()
    return number


def flat():
    [value(number) for number in range(2)]
    {value(number) for number in range(2)}
    {value(number): value(number) for number in range(2)}
    list(value(number) for number in range(2))


def nested():
    [[value(inner) for inner in range(outer)] for outer in range(3)]
    [value(inner) for outer in range(2) for inner in range(2) if mark() is None]
    {key: [value(inner) for inner in {value(key)}] for key in range(2)}
    list(value(inner) for outer in [value(number) for number in range(2)] for inner in range(2))


def spread():
    return [
        value(
            number
        )
        for number in range(3)
        if mark() is None
        and value(number)
        is not None
    ]


def closing(outer):
    return [(lambda: value(outer + number))() for number in range(2)]


def in_a_class():
    class Body:
        mark()
        numbers = [value(number) for number in range(2)]
        table = {value(number): None for number in range(2)}

        def method(self):
            return [value(number) for number in self.numbers]

    return Body().method()


def assigned():
    return [last := value(number) for number in range(2)], last


async def pause():
    await asyncio.sleep(0)
    mark()
    return 1


async def numbers():
    for number in range(2):
        yield await pause()


async def asynchronous():
    [value(number) async for number in numbers()]
    {number: await pause() for number in range(2)}
    [number async for number in (inner async for inner in numbers() if mark() is None)]


AT_THE_TOP = "[value(number) for number in range(2)], list(value(number) for number in range(2))"


def sample():
    for _ in range(5):
        flat()
        nested()
        spread()
        closing(3)
        in_a_class()
        assigned()
        asyncio.run(asynchronous())
        exec(compile(AT_THE_TOP, "<top>", "exec"), {"value": value})


run(sample)
