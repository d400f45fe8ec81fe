"""Runs one case on one loop: ``python -m bench.micro.child LOOP CASE [COUNT]``.

CASE is a name of cases.py, or MODULE:FUNCTION with a function of that form.

With COUNT: does that many operations and ends. Without: warms up, finds how many fit in a second,
prints "ready", and obeys lines on standard input: "run SECONDS" does what should take that long and
prints {"operations": N, "wall_ns": T}, T without what the operations themselves wait for.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time

from bench.common import new_loop
from bench.micro.cases import BURST, BY_NAME, UNITS, WAITS_NS

WARM_UP_SECONDS = 0.05


def timed(loop, case, count: int) -> int:
    start = time.perf_counter_ns()
    loop.run_until_complete(case(loop, count))
    return time.perf_counter_ns() - start


def operations_per_second(loop, case, unit: int) -> float:
    """Doubles the count until it takes long enough; that is the warm-up too."""
    count = unit
    while True:
        wall = timed(loop, case, count)
        if wall > WARM_UP_SECONDS * 1e9:
            return count * 1e9 / wall
        count *= 2


def case_named(name: str):
    module, colon, function = name.partition(":")
    return getattr(importlib.import_module(module), function) if colon else BY_NAME[name]


def main() -> None:
    loop = new_loop(sys.argv[1])
    case = case_named(sys.argv[2])
    unit = UNITS.get(sys.argv[2], BURST)
    if len(sys.argv) > 3:
        timed(loop, case, int(sys.argv[3]))
    else:
        speed = operations_per_second(loop, case, unit)
        print("ready", flush=True)
        for line in sys.stdin:
            seconds = float(line.removeprefix("run "))
            count = max(1, round(speed * seconds / unit)) * unit
            gc.collect()
            wall = timed(loop, case, count) - count * WAITS_NS.get(sys.argv[2], 0)
            print(json.dumps({"operations": count, "wall_ns": wall}), flush=True)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


if __name__ == "__main__":
    main()
