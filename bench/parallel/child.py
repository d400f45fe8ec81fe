"""``python -m bench.parallel.child VARIANT CASE SECONDS``: each line it reads is a turn, whose metrics it
prints as JSON."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable

from bench.counters import core_idle_ns
from bench.parallel import balance, handlers, loads

def operations_in(variant: str, handler: loads.Handler, shape: str, seconds: float) -> int:
    """How many one worker does in that time; that is the warm-up too."""
    operations = 64
    while True:
        wall_ns = loads.run(variant, handler, loads.load(shape, operations), 1).wall_ns
        if wall_ns > seconds * 1e9 / 4:
            return max(1, int(operations * seconds * 1e9 / wall_ns))
        operations *= 2


def scaling(variant: str, case: str, seconds: float) -> Callable[[], dict[str, float]]:
    """Warms up; returns a turn: the same load by one worker and by two."""
    name, _, shape = case.partition("/")
    handler = handlers.BY_NAME[name]
    counts = loads.load(shape, operations_in(variant, handler, shape, seconds))
    operations = sum(counts)

    def turn() -> dict[str, float]:
        gc.collect()
        one = loads.run(variant, handler, counts, 1)
        gc.collect()
        two = loads.run(variant, handler, counts, 2)
        return {
            "ops_1": operations * 1e9 / one.wall_ns,
            "ops_2": operations * 1e9 / two.wall_ns,
            "scaling": one.wall_ns / two.wall_ns,
            "cpu_ns": one.cpu_ns / operations,
            "cpu_growth": two.cpu_ns / one.cpu_ns,
        }

    return turn


def choose(variant: str, case: str, seconds: float) -> Callable[[], dict[str, float]]:
    backend = variant.removeprefix("pyloop-")
    if case == "balance/connections":
        return lambda: balance.spread(backend)
    if case == "balance/heavy":
        return lambda: balance.skew(backend, seconds)
    return scaling(variant, case, seconds)


def main() -> None:
    variant, case, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    cores = sorted(os.sched_getaffinity(0))
    turn = choose(variant, case, seconds)
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.monotonic_ns(), time.process_time_ns()
        idle = sum(map(core_idle_ns, cores))
        metrics = turn()
        wall, cpu = time.monotonic_ns() - wall, time.process_time_ns() - cpu
        idle = sum(map(core_idle_ns, cores)) - idle
        others = max(0.0, 1 - (idle + cpu) / (wall * len(cores)))
        print(json.dumps({"metrics": metrics, "others": others}), flush=True)


if __name__ == "__main__":
    main()
