"""Misleads whoever walks its frames: the thread state points elsewhere while C code allocates.

Argument: the C library. Each case allocates blocks of a size of its own; lines say which.
"""

import ctypes
import mmap
import sys

BLOCKS = 50
FRAME_BYTES = 256

lib = ctypes.PyDLL(sys.argv[1])
state_of = ctypes.pythonapi.PyThreadState_Get
state_of.restype = ctypes.c_void_p


def word(address):
    return ctypes.c_uint64.from_address(address).value


def inner(frame):
    """Address of what the interpreter has for a frame object."""
    return word(id(frame) + 24) if sys.version_info >= (3, 11) else id(frame)


def place():
    """Where the address of the innermost frame stands. No Python function is called while it is looked for."""
    words = ctypes.c_uint64 * 40
    state, wanted = state_of(), inner(sys._getframe())
    for index, value in enumerate(words.from_address(state)[:]):
        if value == wanted:
            return state + 8 * index
        if lib.readable(ctypes.c_void_p(value), 16):
            record = words.from_address(value)
            for field in (0, 1):
                if record[field] == wanted:
                    return value + 8 * field
    raise SystemExit("no place")


def copy_of(frame):
    """A copy of the interpreter's frame that can be changed."""
    copy = ctypes.create_string_buffer(FRAME_BYTES)
    size = FRAME_BYTES if sys.version_info >= (3, 11) else 128
    ctypes.memmove(copy, inner(frame), size)
    return copy


def replace(copy, old, new):
    base = ctypes.addressof(copy)
    for at in range(base, base + 120, 8):
        if word(at) & ~7 == old & ~7:
            ctypes.c_uint64.from_address(at).value = new
            return
    raise SystemExit("no such word")


def unmapped():
    memory = mmap.mmap(-1, 8192)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    lib.unmap(ctypes.c_void_p(address), 8192)
    return address


def cases(frame):
    self_loop, wild_code, no_code = copy_of(frame), copy_of(frame), copy_of(frame)
    replace(self_loop, inner(frame.f_back), ctypes.addressof(self_loop))
    replace(wild_code, id(frame.f_code), 0x123456789ab8)
    replace(no_code, id(frame.f_code), id(sys.version))
    hole = unmapped()
    yield "null", 0
    yield "small", 8
    yield "wild", 0xDEADBEEFCAFE0
    yield "kernel", 0xFFFF888000001000
    yield "unmapped", hole
    yield "edge", lib.edge()
    yield "zeroes", lib.zeroes()
    yield "askew", inner(frame) + 3
    yield "loop", ctypes.addressof(self_loop)
    yield "wild_code", ctypes.addressof(wild_code)
    yield "no_code", ctypes.addressof(no_code)
    keep.extend([self_loop, wild_code, no_code])


keep = []


def misled(name, at, value, size):
    run = getattr(lib, f"mislead_{name}")
    run.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int]
    run(at, value, size, BLOCKS)
    print("case", name, size, BLOCKS, flush=True)


def main():
    lib.edge.restype = ctypes.c_uint64
    lib.zeroes.restype = ctypes.c_uint64
    at = place()
    made = [*cases(sys._getframe()), ("honest", 1)]
    print("ready", flush=True)
    sys.stdin.readline()
    for number, (name, value) in enumerate(made):
        misled(name, at, value, 10_000 + 16 * number)
    print("done", flush=True)
    sys.stdin.readline()


main()
