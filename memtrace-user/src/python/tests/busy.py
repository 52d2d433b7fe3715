"""Threads that call, return, yield, raise and make code objects all the time. Ends with its standard input."""
import functools, os, sys, threading


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def numbers(n):
    for number in range(n):
        yield number


def work():
    while True:
        fib(8)
        sum(numbers(20))
        sorted(range(20), key=lambda number: -number)
        functools.reduce(lambda a, b: a + b, range(20))
        exec(compile("def f():\n    return 1\nf()", "<made>", "exec"), {})
        try:
            int("x")
        except ValueError:
            pass
        threading.Thread(target=fib, args=(5,)).start()


for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
print("begun", flush=True)
sys.stdin.readline()
os._exit(0)
