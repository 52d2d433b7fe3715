"""Keeps code objects of every kind alive and says where they are, until its standard input ends.

Prints a line of JSON for the interpreter and one for each code object: its address, what it says of itself, and the runs of
its lines (see `stdlib.py`).
"""

import json
import os
import re
import sys
import tempfile
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stdlib

# Of the standard library's files, every how manyth is taken.
STRIDE = 15

SOURCE = '''
def plain():
    return [x for x in range(3)], {y: y for y in "ab"}, (z for z in ())

def größe():
    def innen():
        return lambda: 1
    return innen

def άθροισμα(αριθμοί):
    class Κλάση:
        @property
        def τιμή(self):
            try:
                return 1
            finally:
                del self
    return Κλάση

async def 関数():
    async with a as b:
        async for c in b:
            yield await c

class 𠀋:
    """A letter beyond sixteen bits."""
    def 𠀋𠀋(self): return self

    @staticmethod
    @decorated
    def decorated(): pass
'''

FOLDERS = ["plain", "größe", "φάκελος", "フォルダ", "📁", os.fsdecode(b"no\xffutf8")]


class Text(str):
    """A str whose characters are elsewhere."""


def own_files(root):
    for folder in FOLDERS:
        path = os.path.join(root, folder, "module.py")
        os.mkdir(os.path.dirname(path))
        with open(path, "w", encoding="utf-8") as file:
            file.write(SOURCE)
        with open(path, "rb") as file:
            yield compile(file.read(), path, "exec")


def replaced(code):
    """Code objects that no compiler makes."""
    name = "co_qualname" if hasattr(code, "co_qualname") else "co_name"
    table = "co_linetable" if hasattr(code, "co_linetable") else "co_lnotab"
    names = ["", "n" * 1000000, "α" * 1000000, "n" * 1024, "n" * 1025, "😀", "\udcff", Text("ascii"), Text("ά"), Text("😀")]
    for new in names:
        yield code.replace(**{name: new})
        yield code.replace(co_filename=new)
    yield code.replace(co_firstlineno=1000000)
    # A step of 0 lines each: in every form a table of one line.
    for size in (0, 1 << 20, (1 << 20) + 2):
        yield code.replace(**{table: b"\x80" * size if sys.version_info >= (3, 11) else bytes(size)})


def from_stdlib():
    for path in list(stdlib.files())[::STRIDE]:
        code = stdlib.load(path)
        if code is not None:
            yield code


def tell(value):
    # JSON has no half of a surrogate pair; neither have the names that are compared.
    text = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(value, ensure_ascii=False))
    sys.stdout.buffer.write(text.encode() + b"\n")


def describe(code):
    # The lines of a table that is too large are nobody's.
    told = stdlib.runs(code) if len(stdlib.table(code)) <= 1 << 20 else None
    return {
        "addr": id(code),
        "file": str(code.co_filename),
        "name": str(getattr(code, "co_qualname", code.co_name)),
        "first_line": code.co_firstlineno,
        "runs": told,
    }


def main():
    with tempfile.TemporaryDirectory() as root:
        kept = list(own_files(root))
    kept = [code for module in kept for code in stdlib.nested(module)]
    kept += list(replaced(describe.__code__))
    kept += [code for module in from_stdlib() for code in stdlib.nested(module)]
    tell({"minor": sys.version_info[1], "code_type": id(types.CodeType), "no_code": id(kept), "count": len(kept)})
    for code in kept:
        tell(describe(code))
    # Small ones, which lie in pools; nothing makes another one before the memory is looked at.
    freed = [compile("x", "x", "eval") for _ in range(64)]
    addresses = [id(code) for code in freed]
    text = json.dumps({"freed": addresses}).encode() + b"\n"
    del freed
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
