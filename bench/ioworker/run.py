"""Measures what a second core is worth to a JSON server on a build with a GIL.

`inline` does sockets and handlers in one thread; `worker` leaves the sockets to a native worker
that never needs the GIL, and only the handlers run in Python; `processes` are two of `inline`.
The server may use both cores, the load generator keeps to its own, as ever: with small handlers it
needs much of that one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from bench import counters
from bench.common import (
    ROOT,
    BenchError,
    Load,
    Plan,
    Sample,
    Server,
    build_extension,
    chosen,
    interleave,
    loop_problem,
)
from bench.ioworker.handlers import HANDLERS

MODES = ("inline", "worker", "processes")
BACKENDS = ("epoll", "io_uring")
VARIANTS = tuple(f"{mode}-{backend}" for backend in BACKENDS for mode in MODES)
BASELINE = "inline-epoll"
CASES = tuple(f"{handler}/{count}" for handler in HANDLERS for count in (1, 64))
WARM_UP_SECONDS = 0.3  # at most, and no longer than half the window


class BothCores(counters.Window):
    """The server may run on either core, so what disturbs is counted over both."""

    def _disturbed(self, used: dict[str, int]) -> float:
        idle = used["server_idle"] + used["client_idle"]
        wall = 2 * used["wall"]
        return min(1.0, max(0.0, (wall - idle - used["cpu"] - used["client"]) / max(1, wall)))


@contextlib.contextmanager
def serving(variant: str, case: str, plan: Plan) -> Iterator[tuple[Server, Load]]:
    mode, _, backend = variant.partition("-")
    handler, _, connections = case.partition("/")
    argv = [plan.python, "-m", "bench.ioworker.server", mode, backend, handler]
    cores = {plan.cores.server, plan.cores.client}
    path = os.pathsep.join([str(build_extension("io_worker", plan.python)), str(ROOT)])
    body = HANDLERS[handler]("/").decode()
    with Server(argv, cores, {"PYTHONPATH": path}) as server:
        port = server.read_port()
        with Load(port, int(connections), plan.cores.client, http="/", expect=body) as load:
            yield server, load


def measure(variant: str, case: str, plan: Plan) -> Sample:
    """One sample of one variant."""
    with serving(variant, case, plan) as (server, load):
        load.run(min(plan.seconds / 2, WARM_UP_SECONDS))
        with BothCores(server, plan.cores, (), (load.pid,)) as window:
            result = load.run(plan.seconds)
    metrics = window.per(result["messages"])
    metrics["messages_per_s"] = result["messages"] * 1e9 / result["wall_ns"]
    for name in ("p50", "p99"):
        metrics[f"{name}_us"] = result[f"{name}_ns"] / 1000
    return Sample(case, variant, 0, metrics, window.disturbed)


def problem(variant: str, python: str) -> str | None:
    return loop_problem(f"pyloop-{variant.partition('-')[2]}", python)


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    cases = plan.cases or CASES
    for case in cases:
        if case not in CASES:
            raise BenchError(f"unknown case {case!r}: {', '.join(CASES)}")
    if plan.cores.shared:
        raise BenchError("ioworker needs two cores")
    names = chosen(plan, VARIANTS, BASELINE, problem)
    samples: list[Sample] = []
    for case in plan.each(cases):
        samples += interleave(plan, case, names, lambda name, case=case: measure(name, case, plan))
    return samples
