"""Functions that live for a moment: made, called, forgotten, so that the next ones get their addresses.

The number in a function's name is also in the size of what it allocates: a name that is another's shows.
Arguments: how many, and how many live at a time. A third one is the pause between two of them, in seconds.
"""

import sys
import time

FIRST = 2000


def main():
    total, alive = int(sys.argv[1]), int(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0
    living = [None] * alive
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(total):
        space = {}
        exec(f"def f{number}():\n    return bytes({FIRST + number})\n", space)
        function = space[f"f{number}"]
        living[number % alive] = function
        for _ in range(3):
            function()
        if pause:
            time.sleep(pause)
    print("done", total, flush=True)
    sys.stdin.readline()


main()
