"""asyncio: chains of awaits, tasks, asynchronous generators and contexts, executors."""

import asyncio

from marker import mark, run


async def link(depth):
    mark()
    if depth:
        await link(depth - 1)
    else:
        await asyncio.sleep(0)
        mark()
    mark()


class Context:
    async def __aenter__(self):
        mark()
        await asyncio.sleep(0)
        mark()

    async def __aexit__(self, *exception):
        mark()


class Awaited:
    def __await__(self):
        mark()
        yield from asyncio.sleep(0).__await__()
        mark()


async def values(count):
    try:
        for value in range(count):
            await asyncio.sleep(0)
            mark()
            yield value
    finally:
        mark()


async def using(number):
    async with Context():
        async for value in values(3):
            mark()
    await Awaited()
    return [value async for value in values(2) if mark() is None]


async def failing():
    try:
        await asyncio.wait_for(asyncio.sleep(10), 0.001)
    except asyncio.TimeoutError:
        mark()


async def abandoned():
    async for value in values(9):
        mark()
        break


async def main():
    loop = asyncio.get_running_loop()
    await link(10)
    await asyncio.gather(*[link(number % 5) for number in range(20)], *[using(number) for number in range(20)])
    tasks = [asyncio.ensure_future(link(3)) for _ in range(10)]
    for task in tasks:
        task.add_done_callback(mark)
    await asyncio.wait(tasks)
    loop.call_soon(mark)
    loop.call_later(0.001, mark)
    await loop.run_in_executor(None, mark)
    await asyncio.shield(failing())
    await abandoned()
    await asyncio.sleep(0.01)


def sample():
    for _ in range(3):
        asyncio.run(main())


run(sample)
