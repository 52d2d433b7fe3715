"""Threads blocked at known places. Prints what CPython itself says of their frames, then waits for a line."""
import asyncio, functools, json, sys, threading, time

gate = threading.Lock()
gate.acquire()


def block(*_):
    gate.acquire()
    gate.release()
    return 0


def deep(depth):
    if depth:
        deep(depth - 1)
    else:
        block()


def generator():
    yield 1
    block()
    yield 2


def in_generator():
    return [value for value in generator()]


def in_sorted():
    sorted([3, 1, 2], key=lambda value: block(value))


def in_partial():
    list(map(functools.partial(block, 1), [1, 2]))


def in_exec():
    exec(compile("def nested():\n    block()\nnested()", "<dynamic>", "exec"), globals())


async def inner():
    block()


async def outer():
    await inner()


def in_asyncio():
    asyncio.new_event_loop().run_until_complete(outer())


def in_overlong():
    sys.setrecursionlimit(2000)
    deep(600)


class Größe:
    def __eq__(self, other):
        block()
        return True


def in_operator():
    return Größe() == Größe()


def own_state():
    """Address of the thread's own state, where there is a way to ask."""
    try:
        import ctypes
    except ImportError:
        return 0
    ask = ctypes.pythonapi.PyGILState_GetThisThreadState
    ask.restype = ctypes.c_void_p
    return ask()


states = {}


def noted(work, *args):
    states[threading.get_ident()] = own_state()
    work(*args)


def frames_of(frame):
    frames = []
    while frame is not None:
        frames.append([id(frame.f_code), frame.f_lasti])
        frame = frame.f_back
    return frames


def snapshot():
    return {ident: frames_of(frame) for ident, frame in sys._current_frames().items()}


def report():
    own = threading.get_ident()
    last = None
    while True:
        time.sleep(0.05)
        now = snapshot()
        now.pop(own)
        if now == last:
            break
        last = now
    print(json.dumps({"frames": now, "states": states}), flush=True)
    sys.stdin.readline()
    gate.release()


if __name__ == "__main__":
    kinds = [in_generator, in_sorted, in_partial, in_exec, in_asyncio, in_overlong, in_operator]
    works = [(kind,) for kind in kinds] + [(deep, 40), (report,)]
    for work in works:
        threading.Thread(target=noted, args=work).start()
    noted(deep, 3)
