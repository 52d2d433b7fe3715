"""Blocks that tell the stack they come from: what the programs of this folder allocate.

`mark()` allocates a block from C and notes the Python stack at that very call. Equal stacks get blocks of one size, other
stacks those of another, so a tracer's site is known by the size of its blocks. All sizes are odd, which those of lists and
dicts are not. The blocks are kept.

A program calls `run(sample)`: it prints `ready`, waits for a line, samples, writes the truth to the file that is its first
argument, prints `told`, and waits for another line, or for the end of its input.

The truth is JSON: {"pid", "python", "samples", "stacks": [{"size", "count", "frames": [{"function", "file", "line",
"first_line"}]}]}, innermost frames first. A function's name is the qualified one where code objects have it (3.11), the line
null where `f_lineno` is None.
"""

import ctypes
import itertools
import json
import os
import platform
import sys
import threading
import traceback

FIRST_SIZE = 100003
STEP = 34
# Bytes of a `bytes` beside what it holds.
BYTES_HEAD = sys.getsizeof(b"")

kept = []
stacks = {}
# Reentrant: a finalizer that the collector calls within `note` marks as well.
lock = threading.RLock()
sizes = itertools.count(FIRST_SIZE, STEP)
turns = itertools.count()


def malloc(library):
    function = library.malloc
    function.argtypes = [ctypes.c_size_t]
    function.restype = ctypes.c_void_p
    return function


released = malloc(ctypes.CDLL(None))
held = malloc(ctypes.PyDLL(None))


class Stack:
    """The size of its blocks, and how many there are."""

    def __init__(self):
        self.size = next(sizes)
        self.count = itertools.count()


def note(frame):
    """The size of blocks that stand for the stack of `frame`. Nothing of the code is kept, so that it can be freed."""
    key = []
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        key.append((name.encode(), code.co_filename.encode(), frame.f_lineno, code.co_firstlineno))
        frame = frame.f_back
    key = tuple(key)
    with lock:
        stack = stacks.get(key) or stacks.setdefault(key, Stack())
    next(stack.count)
    return stack.size


# The frame is noted and the block allocated in one line: it is the line of both.


def by_python():
    kept.append(bytes(note(sys._getframe()) - BYTES_HEAD))


def with_the_gil():
    kept.append(held(note(sys._getframe())))


def without_the_gil():
    kept.append(released(note(sys._getframe())))


ALLOCATORS = [by_python, with_the_gil, without_the_gil]


def mark(*ignored):
    """Allocates, each time in another way. Takes what callbacks are given."""
    ALLOCATORS[next(turns) % len(ALLOCATORS)]()


def told():
    """Everything noted so far."""
    told = []
    for key, stack in list(stacks.items()):
        frames = [
            {"function": name.decode(), "file": file.decode(), "line": line, "first_line": first_line}
            for name, file, line, first_line in key
        ]
        told.append({"size": stack.size, "count": next(stack.count), "frames": frames})
    return told


def write(path):
    truth = told()
    samples = sum(stack["count"] for stack in truth)
    head = {"pid": os.getpid(), "python": platform.python_version(), "samples": samples}
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(dict(head, stacks=truth), file)
    os.rename(path + ".part", path)


def absent(what):
    """Ends a program that cannot run here."""
    print("absent", what, flush=True)
    sys.exit(0)


def fail(thrown):
    """A thread that fails ends the program, as the main thread does."""
    traceback.print_exception(thrown.exc_type, thrown.exc_value, thrown.exc_traceback)
    os._exit(1)


def run(sample):
    threading.excepthook = fail
    print("ready", flush=True)
    sys.stdin.readline()
    sample()
    write(sys.argv[1])
    print("told", flush=True)
    sys.stdin.readline()
