"""Measures what a thread that computes in Python costs a server in the same process.

A sample is one server started afresh under 16 connections of our load generator, whose p99 is then
below half a millisecond: a window without the neighbour, then one with it. `kept` is the second's
throughput as a part of the first's, `neighbour` the part of a core that the thread got meanwhile.

It computes on the client's core, which is idle while it does: who waits for the GIL then waits for
nothing else. In the cases named one-core it shares the server's core, and the kernel lets it
finish its time slice before whoever waited for the GIL may even ask for it. In the cases named
interval pyloop shortens the interpreter's switch interval.

The client shares its core with the thread, so where it has as much to do as it can it waits for
that core, up to a time slice of some 4 ms, however fast the server is. So each window is followed
by one in which PACE messages a second are due and the client has a real-time priority: that takes
a tenth of the core from the thread, and what is measured is the server.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bench import counters
from bench.common import (
    LOOPS,
    BenchError,
    Load,
    Plan,
    Sample,
    Server,
    chosen,
    free_port,
    interleave,
    loop_problem,
    say,
)
from bench.http import servers

BASELINE = "uvloop"
VARIANTS = LOOPS
CASES = ("echo", "http", "echo-interval", "http-interval", "echo-one-core", "http-one-core")
SWITCH_INTERVAL = {"PYLOOP_SWITCH_INTERVAL": "0.0005"}  # seconds
CONNECTIONS = 16
MESSAGE_BYTES = 1024
PACE = 2000  # messages a second
WARM_UP_SECONDS = 0.3  # at most, and no longer than half the window


def http_server(variant: str) -> str:
    """The HTTP server that stands for a loop: pyloop's own, uvicorn on the others."""
    return variant if variant.startswith("pyloop-") else f"uvicorn-{variant}"


def problem(variant: str, python: str) -> str | None:
    return loop_problem(variant, python) or servers.problem(http_server(variant), python)


class Commands:
    """The pipe by which a server's neighbour is told to spin and to rest. A context manager."""

    def __enter__(self) -> Commands:
        self.server_end, self._end = os.pipe()
        return self

    def __exit__(self, *_exc) -> None:
        os.close(self.server_end)
        os.close(self._end)

    def tell(self, command: str) -> None:
        os.write(self._end, command.encode() + b"\n")


@contextlib.contextmanager
def serving(variant: str, case: str, plan: Plan, stdin: int) -> Iterator[tuple[Server, Load]]:
    core = plan.cores.client
    option = SWITCH_INTERVAL if case.endswith("interval") else {}
    if case.startswith("echo"):
        argv = [plan.python, "-m", "bench.neighbour.echo", variant, "protocol"]
        with Server(argv, plan.cores.server, option, stdin=stdin) as server:
            with Load(server.read_port(), CONNECTIONS, core, size=MESSAGE_BYTES) as load:
                yield server, load
        return
    port = free_port()
    argv, environment = servers.command(
        http_server(variant), "bench.neighbour.http:app", port, plan.python
    )
    with Server(argv, plan.cores.server, {**(environment or {}), **option}, stdin=stdin) as server:
        server.wait_port(port)
        with Load(port, CONNECTIONS, core, http="/", expect="Hello, world!") as load:
            yield server, load


@contextlib.contextmanager
def at_once(load: Load, plan: Plan) -> Iterator[None]:
    """The client gets its core whenever it has something to do (sched(7), SCHED_FIFO)."""
    try:
        os.sched_setscheduler(load.pid, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        if "real-time client" not in plan.skipped:
            plan.skipped["real-time client"] = "not permitted: latencies include its wait for a core"
            say(f"SKIPPED real-time client: {plan.skipped['real-time client']}")
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(load.pid, os.SCHED_OTHER, os.sched_param(0))


def cpu_of_threads(pid: int) -> dict[str, int]:
    """CPU time of each thread but the first, in nanoseconds."""
    return {
        task.name: int((task / "schedstat").read_text().split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
    }


def window(server: Server, load: Load, plan: Plan) -> tuple[dict, float, counters.Window]:
    """What the load saw, the share of a core that the busiest other thread had, and the counts."""
    load.run(min(plan.seconds / 2, WARM_UP_SECONDS))
    before = cpu_of_threads(server.process.pid)
    with counters.Window(server, plan.cores, (), (load.pid,)) as counted:
        result = load.run(plan.seconds)
    after = cpu_of_threads(server.process.pid)
    used = max((cpu - before.get(name, 0) for name, cpu in after.items()), default=0)
    with at_once(load, plan):
        result["paced"] = load.pace(PACE, plan.seconds)
    return result, used / counted.wall, counted


def measure(variant: str, case: str, plan: Plan) -> Sample:
    """One sample of one variant."""
    with Commands() as commands, serving(variant, case, plan, commands.server_end) as (server, load):
        alone, _, quiet = window(server, load, plan)
        core = plan.cores.server if case.endswith("one-core") else plan.cores.client
        commands.tell(f"spin {core}")
        beside, share, spinning = window(server, load, plan)
        commands.tell("rest")
    rates = [found["messages"] * 1e9 / found["wall_ns"] for found in (alone, beside)]
    metrics = {"messages_per_s": rates[0], "beside_per_s": rates[1], "kept": rates[1] / rates[0],
               "neighbour": share}  # fmt: skip
    for name in ("p50", "p99"):
        metrics[f"alone_{name}_us"] = alone[f"{name}_ns"] / 1000
        metrics[f"beside_{name}_us"] = beside[f"{name}_ns"] / 1000
        metrics[f"paced_alone_{name}_us"] = alone["paced"][f"{name}_ns"] / 1000
        metrics[f"paced_beside_{name}_us"] = beside["paced"][f"{name}_ns"] / 1000
    return Sample(case, variant, 0, metrics, max(quiet.disturbed, spinning.disturbed))


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    cases = plan.cases or CASES
    for case in cases:
        if case not in CASES:
            raise BenchError(f"unknown case {case!r}: {', '.join(CASES)}")
    names = chosen(plan, VARIANTS, BASELINE, problem)
    samples: list[Sample] = []
    for case in plan.each(cases):
        samples += interleave(plan, case, names, lambda name, case=case: measure(name, case, plan))
    return samples
