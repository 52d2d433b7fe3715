"""Runs one benchmark of pyperformance as it is, with a `pyperf` that does a fixed number of loops in this process.

run.py BENCHMARK LOOPS [ARGUMENT...]

Prints `ready` and waits for a line on standard input. Then does one loop that does not count (unless LOOPS is 1) and
LOOPS that do, and prints the nanoseconds that these took: CPU time of the process (user and system), and wall time.
"""

import argparse
import asyncio
import os
import runpy
import sys
import time
import types


class Clock:
    """What the measured loops took so far."""

    cpu = wall = 0

    def __init__(self, loops):
        self.loops = loops
        self.waited = False

    def measure(self, run):
        """Lets `run(n)` do one loop, then all."""
        if not self.waited:
            print("ready", flush=True)
            sys.stdin.readline()
            self.waited = True
        if self.loops > 1:
            run(1)
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        run(self.loops)
        self.cpu += time.process_time_ns() - cpu
        self.wall += time.perf_counter_ns() - wall


class Runner:
    """The part of `pyperf.Runner` that the benchmarks use."""

    def __init__(self, **_):
        self.argparser = argparse.ArgumentParser()
        self.metadata = {}

    def parse_args(self):
        return self.argparser.parse_args()

    def bench_time_func(self, _name, function, *args, **_):
        CLOCK.measure(lambda loops: function(loops, *args))

    def bench_func(self, _name, function, *args, **_):
        def run(loops):
            for _ in range(loops):
                function(*args)

        CLOCK.measure(run)

    def bench_async_func(self, _name, function, *args, **_):
        async def run(loops):
            for _ in range(loops):
                await function(*args)

        CLOCK.measure(lambda loops: asyncio.run(run(loops)))


_, PATH, LOOPS, *ARGUMENTS = sys.argv
CLOCK = Clock(int(LOOPS))
pyperf = types.ModuleType("pyperf")
pyperf.Runner = Runner
pyperf.perf_counter = time.perf_counter
sys.modules["pyperf"] = pyperf
sys.argv = [PATH, *ARGUMENTS]
sys.path.insert(0, os.path.dirname(PATH))
runpy.run_path(PATH, run_name="__main__")
print(CLOCK.cpu, CLOCK.wall, flush=True)
