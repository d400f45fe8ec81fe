"""One sample: ``python -m bench.parallel.child VARIANT CASE SECONDS`` prints its metrics as JSON."""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time

from bench.counters import core_idle_ns
from bench.parallel import balance, handlers, loads

TURNS = 3
"""How often one worker and two take turns in one sample; medians count."""


def operations_in(variant: str, handler: loads.Handler, shape: str, seconds: float) -> int:
    """How many one worker does in that time; that is the warm-up too."""
    operations = 64
    while True:
        wall_ns = loads.run(variant, handler, loads.load(shape, operations), 1).wall_ns
        if wall_ns > seconds * 1e9 / 4:
            return max(1, int(operations * seconds * 1e9 / wall_ns))
        operations *= 2


def scaling(variant: str, case: str, seconds: float) -> dict[str, float]:
    name, _, shape = case.partition("/")
    handler = handlers.BY_NAME[name]
    counts = loads.load(shape, operations_in(variant, handler, shape, seconds))
    rates: dict[int, list[float]] = {1: [], 2: []}
    costs: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(TURNS):
        for workers in (1, 2):
            gc.collect()
            times = loads.run(variant, handler, counts, workers)
            rates[workers].append(sum(counts) * 1e9 / times.wall_ns)
            costs[workers].append(times.cpu_ns / sum(counts))
    return {
        "ops_1": statistics.median(rates[1]),
        "ops_2": statistics.median(rates[2]),
        "scaling": statistics.median(two / one for one, two in zip(rates[1], rates[2], strict=True)),
        "cpu_ns": statistics.median(costs[1]),
        "cpu_growth": statistics.median(b / a for a, b in zip(costs[1], costs[2], strict=True)),
    }


def measure(variant: str, case: str, seconds: float) -> dict[str, float]:
    backend = variant.removeprefix("pyloop-")
    if case == "balance/connections":
        return balance.spread(backend)
    if case == "balance/heavy":
        return balance.skew(backend, seconds)
    return scaling(variant, case, seconds)


def main() -> None:
    variant, case, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    cores = sorted(os.sched_getaffinity(0))
    wall, cpu = time.monotonic_ns(), time.process_time_ns()
    idle = sum(map(core_idle_ns, cores))
    metrics = measure(variant, case, seconds)
    wall, cpu = time.monotonic_ns() - wall, time.process_time_ns() - cpu
    idle = sum(map(core_idle_ns, cores)) - idle
    others = max(0.0, 1 - (idle + cpu) / (wall * len(cores)))
    print(json.dumps({"metrics": metrics, "others": others}))


if __name__ == "__main__":
    main()
