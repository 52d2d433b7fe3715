"""Modules that allocate while they are imported, and many others imported again and again meanwhile."""

import importlib
import os
import sys
import tempfile

from marker import mark, run

MODULES = 32
# Modules that import each other: a stack is to have room for the calls of them all.
CHAIN = 4
ROUNDS = 4

# Pure Python, quick to import, and in every version.
STDLIB = [
    "argparse", "ast", "bisect", "calendar", "cmd", "code", "codeop", "colorsys", "configparser", "contextlib",
    "copy", "csv", "datetime", "difflib", "dis", "email.message", "filecmp", "fileinput", "fractions", "getopt",
    "gettext", "glob", "hmac", "html.parser", "http.client", "inspect", "json.decoder", "linecache", "mailbox",
    "mimetypes", "netrc", "ntpath", "opcode", "optparse", "pickle", "plistlib", "pprint", "profile", "quopri",
    "sched", "shelve", "shlex", "statistics", "string", "tarfile", "textwrap", "timeit", "tokenize",
    "urllib.request", "uuid", "wave", "xml.dom.minidom", "zipfile",
]  # fmt: skip

SOURCE = '''"""Module {number}."""
import marker
import {stdlib}

marker.mark()
VALUES = [
    marker.mark()
    for _ in range(2)
]


class AtTheTop:
    marker.mark()

    def method(self):
        marker.mark()


def function():
    from . import {next}
    AtTheTop().method()


if {number} % {chain}:
    function()
marker.mark()
'''


def write(folder):
    package = os.path.join(folder, "παλέτα")
    os.mkdir(package)
    with open(os.path.join(package, "__init__.py"), "w", encoding="utf-8") as file:
        file.write("import marker\nmarker.mark()\n")
    for number in range(MODULES):
        path = os.path.join(package, "module_%d.py" % number)
        text = SOURCE.format(
            number=number,
            chain=CHAIN,
            stdlib=STDLIB[number % len(STDLIB)],
            next="module_%d" % max(number - 1, 0),
        )
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def purge():
    for name in list(sys.modules):
        if name.startswith("παλέτα") or name in STDLIB:
            del sys.modules[name]


def sample():
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        sys.path.insert(0, folder)
        sys.dont_write_bytecode = True
        for turn in range(ROUNDS):
            for name in STDLIB:
                importlib.import_module(name)
            # The last one of a chain imports the others from within each other.
            for last in range(CHAIN - 1, MODULES, CHAIN):
                importlib.import_module("παλέτα.module_%d" % last)
            mark()
            purge()
            importlib.invalidate_caches()
        sys.path.remove(folder)


run(sample)
