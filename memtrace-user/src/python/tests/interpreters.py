"""An interpreter in an interpreter, blocked. Prints the code objects of its frames, the innermost first."""
import os, sys, threading

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

INNER = """
import os, sys

def block():
    frame, codes = sys._getframe(), []
    while frame is not None:
        codes.append(id(frame.f_code))
        frame = frame.f_back
    os.write(1, (" ".join(map(str, codes)) + chr(10)).encode())
    os.read(0, 1)

def deep(depth):
    deep(depth - 1) if depth else block()

deep(10)
"""

sub = interpreters.create()
# In a thread of its own: states of two interpreters belong to the main thread otherwise, and to this one too.
thread = threading.Thread(target=interpreters.run_string, args=(sub, INNER))
thread.start()
thread.join()
