"""Leaks while it is being read: 200 blocks of 6 000 bytes, then, when the modules of the library are there, 200 of 7 000."""

# With room for all, so that it does not grow.
KEPT = [None] * 400


class Early:
    for number in range(200):
        KEPT[number] = bytes(6000)


import asyncio  # noqa: E402
import email.message  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import unittest  # noqa: E402

for number in range(200):
    KEPT[200 + number] = bytes(7000)

print("ready", asyncio.__name__, email.message.__name__, json.__name__, unittest.__name__, flush=True)
if len(sys.argv) > 1:
    import os

    os.execv(sys.argv[1], [sys.argv[1], __file__, *sys.argv[2:]])
