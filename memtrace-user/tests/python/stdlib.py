"""Line tables of every code object of this interpreter's standard library, and what the interpreter makes of them.

Written to standard output, little-endian: the minor version; for each code object the sizes of its table and of its bytecode in code units,
its first line, the number of runs; the table; the runs, each a number of code units and their line, -1 for none.

The lines are those of `code.co_lines()`, before 3.10 of `dis.findlinestarts`. Where that is affordable they are checked
against `PyCode_Addr2Line`, which `frame.f_lineno` comes from.
"""

import ctypes
import dis
import importlib.util
import marshal
import os
import struct
import sys
import sysconfig
import types

NO_LINE = -1
# PyCode_Addr2Line reads a table from its beginning each time.
CHECKED_UNITS = 300

addr_to_line = ctypes.pythonapi.PyCode_Addr2Line
addr_to_line.argtypes = [ctypes.py_object, ctypes.c_int]
addr_to_line.restype = ctypes.c_int


def files():
    for folder, folders, names in os.walk(sysconfig.get_paths()["stdlib"]):
        folders[:] = sorted(set(folders) - {"site-packages", "dist-packages", "__pycache__"})
        for name in sorted(names):
            if name.endswith(".py"):
                yield os.path.join(folder, name)


def load(path):
    """The code object of a file: the compiled one beside it, or else compiled now; None for files that are no Python."""
    try:
        with open(importlib.util.cache_from_source(path), "rb") as file:
            compiled = file.read()
        if compiled[:4] == importlib.util.MAGIC_NUMBER:
            return marshal.loads(compiled[16:])
    except OSError:
        pass
    try:
        with open(path, "rb") as file:
            return compile(file.read(), path, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def nested(code):
    """A code object and all that are defined in it."""
    rest = [code]
    while rest:
        code = rest.pop()
        yield code
        rest.extend(const for const in code.co_consts if isinstance(const, types.CodeType))


def table(code):
    return code.co_linetable if sys.version_info >= (3, 10) else code.co_lnotab


def runs(code):
    """Numbers of code units and their line, from the first instruction to the last."""
    size = len(code.co_code)
    if sys.version_info >= (3, 10):
        ranges = [(start, end, NO_LINE if line is None else line) for start, end, line in code.co_lines()]
    else:
        starts = [start for start in dis.findlinestarts(code)]
        # An empty first line is not told.
        if not starts or starts[0][0] != 0:
            starts.insert(0, (0, code.co_firstlineno))
        ends = [start for start, _ in starts[1:]] + [size]
        ranges = [(start, end, line) for (start, line), end in zip(starts, ends)]
    told = []
    reached = 0
    for start, end, line in ranges + [(size, size, NO_LINE)]:
        start, end = min(start, size), min(end, size)
        if start > reached:
            told.append(((start - reached) // 2, NO_LINE))
        if end > start:
            told.append(((end - start) // 2, line))
        reached = max(reached, end)
    return told


def check(code, told):
    """Whether the interpreter's two answers are one."""
    lines = [line for count, line in told for _ in range(count)]
    for unit, line in enumerate(lines):
        said = addr_to_line(code, 2 * unit)
        if said != line:
            sys.exit("%s at %d: PyCode_Addr2Line says %d, co_lines %d" % (code, 2 * unit, said, line))
    if addr_to_line(code, -1) != code.co_firstlineno:
        sys.exit("%s: PyCode_Addr2Line has no first line" % code)


def main():
    output = sys.stdout.buffer
    output.write(struct.pack("<I", sys.version_info[1]))
    for path in files():
        code = load(path)
        if code is None:
            continue
        for code in nested(code):
            told = runs(code)
            units = sum(count for count, _ in told)
            if units <= CHECKED_UNITS:
                check(code, told)
            bytes_of_table = table(code)
            output.write(struct.pack("<IIiI", len(bytes_of_table), units, code.co_firstlineno, len(told)))
            output.write(bytes_of_table)
            output.write(struct.pack("<%di" % (2 * len(told)), *[value for run in told for value in run]))


if __name__ == "__main__":
    main()
