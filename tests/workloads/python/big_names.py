"""Code objects whose names are too long, and one of bytes that are no text. Blocks of 5 000 bytes and more."""

import sys
import types


def plain():
    return bytes(SIZE)


def renamed(name, file):
    code = plain.__code__
    changes = {"co_name": name, "co_filename": file}
    if hasattr(code, "co_qualname"):
        changes["co_qualname"] = name
    return types.FunctionType(code.replace(**changes), globals())


print("ready", flush=True)
sys.stdin.readline()
kept = []
CASES = [
    ("x" * 1_000_000, "short.py"),
    ("y" * 1_000_000 + "\u20ac", "short.py"),
    ("z", "/long/" + "p" * 1_000_000 + ".py"),
    ("\ud800half", "\U0001f40d.py"),
    ("with\nline\tand\x00null\x1b[31m", "a;b c\n.py"),
    ("", ""),
]
for number, (name, file) in enumerate(CASES):
    SIZE = 5000 + number
    function = renamed(name, file)
    kept.append(function)
    for _ in range(20):
        kept.append(function())
print("done", flush=True)
sys.stdin.readline()
