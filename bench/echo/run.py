"""Measures TCP echo: each loop in each style, and plain C as the floor.

A sample is one server started afresh on its core, N connections of our load generator on the
other, one message in flight on each, every byte compared: a timed window, then a shorter one under
the system call tracepoint.
"""

from __future__ import annotations

import os
import re

from bench import counters
from bench.common import (
    LOOPS,
    BenchError,
    Load,
    Plan,
    Sample,
    Server,
    build_c,
    chosen,
    interleave,
    loop_problem,
)

BASELINE = "uvloop"
FLOORS = ("c-epoll", "c-io_uring")
VARIANTS = (*LOOPS, *FLOORS)
STYLES = ("protocol", "buffered", "streams", "native-streams", "sock")
SIZES = {"1KiB": 1024, "10KiB": 10 * 1024, "100KiB": 100 * 1024}
CONNECTIONS = (1, 64, 1024)
WARM_UP_SECONDS = 0.3
CACHEGRIND_MESSAGES = 4_000
IDLE_CONNECTIONS = 10_000
IDLE_SMALL = 500

DEFAULT_CASES = (
    *(f"{style}/1KiB/64" for style in STYLES),
    "protocol/1KiB/1",
    "protocol/100KiB/64",
    "streams/100KiB/64",
    "native-streams/100KiB/64",
    "protocol/idle",
    "streams/idle",
    "native-streams/idle",
)
"""Cases are STYLE/SIZE/CONNECTIONS or STYLE/idle."""

FULL_CASES = (
    *(f"{style}/{size}/{n}" for style in STYLES for size in SIZES for n in CONNECTIONS),
    *(f"{style}/idle" for style in STYLES),
)
QUICK_CASES = ("protocol/1KiB/64", "streams/1KiB/64")


def parse(case: str) -> tuple[str, int, int]:
    """Style, message size (0: idle) and connections of a case's name."""
    style, _, rest = case.partition("/")
    if style in STYLES:
        if rest == "idle":
            return style, 0, 0
        found = re.fullmatch(r"(\d+)KiB/(\d+)", rest)
        if found and int(found[1]) > 0 and int(found[2]) > 0:
            return style, int(found[1]) * 1024, int(found[2])
    raise BenchError(
        f"unknown case {case!r}: STYLE/SIZE/CONNECTIONS as protocol/1KiB/64, or STYLE/idle; "
        f"styles {', '.join(STYLES)}"
    )


def command(variant: str, style: str, python: str) -> list[str]:
    if variant in FLOORS:
        return [str(build_c(variant.replace("c-", "echo_").replace("io_uring", "uring")))]
    return [python, "-m", "bench.echo.server", variant, style]


def problem(variant: str, python: str) -> str | None:
    if variant not in FLOORS:
        return loop_problem(variant, python)
    try:
        core = min(os.sched_getaffinity(0))
        with Server(command(variant, "", python), core) as server:
            server.read_port()
    except BenchError as error:
        return str(error).strip()
    return None


def measure(variant: str, case: str, plan: Plan) -> Sample:
    """One sample of one variant."""
    style, size, connections = parse(case)
    if size == 0:
        return measure_idle(variant, case, plan)
    with Server(command(variant, style, plan.python), plan.cores.server) as server:
        port = server.read_port()
        with Load(port, connections, plan.cores.client, size=size) as load:
            load.run(WARM_UP_SECONDS)
            events = counters.HARDWARE if counters.hardware_problem() is None else ()
            with counters.Window(server, plan.cores, events, (load.pid,)) as window:
                result = load.run(plan.seconds)
            metrics = window.per(result["messages"])
            metrics["messages_per_s"] = result["messages"] * 1e9 / result["wall_ns"]
            for name in ("p50", "p99", "p999"):
                metrics[f"{name}_us"] = result[f"{name}_ns"] / 1000
            if not counters.syscalls_problem():
                events = (counters.SYSCALLS,)
                with counters.Window(server, plan.cores, events, (load.pid,)) as counted:
                    result = load.run(min(plan.seconds, 0.5))
                metrics["syscalls"] = counted.per(result["messages"])["syscalls"]
    return Sample(case, variant, 0, metrics, window.disturbed)


def measure_idle(variant: str, case: str, plan: Plan) -> Sample:
    """Memory of connections that were served once and then wait."""
    style, _, _ = parse(case)
    count = IDLE_SMALL if plan.quick else IDLE_CONNECTIONS
    with Server(command(variant, style, plan.python), plan.cores.server) as server:
        port = server.read_port()
        with Load(port, 64, plan.cores.client, size=1024) as busy:
            busy.count(2_000)  # the heap grows to its busy size first
            before = server.rss_bytes()
            with Load(port, count, plan.cores.client, size=1024) as idle:
                after = server.rss_bytes()
                with counters.Window(server, plan.cores, (), (busy.pid, idle.pid)) as window:
                    result = busy.run(min(plan.seconds, 1.0))
                idle.count(count)  # all of them still answer
    metrics = {
        "rss_per_idle": (after - before) / count,
        "messages_per_s": result["messages"] * 1e9 / result["wall_ns"],
        "p99_us": result["p99_ns"] / 1000,
        "cpu_ns": window.cpu / result["messages"],
    }
    return Sample(case, variant, 0, metrics, window.disturbed)


def cachegrind(variant: str, case: str, plan: Plan) -> float:
    """User instructions of a message, by two runs under Cachegrind."""
    style, size, connections = parse(case)

    def run(messages: int) -> int:
        tool = counters.Cachegrind()
        argv = tool.command(command(variant, style, plan.python))
        with Server(argv, plan.cores.server, counters.CACHEGRIND_ENVIRONMENT) as server:
            port = server.read_port()
            with Load(port, connections, plan.cores.client, size=size) as load:
                load.count(messages)
            tool.end(server, port)
        return tool.instructions()

    return counters.instructions_per(run, max(CACHEGRIND_MESSAGES, connections))


def variants_of(case: str, names: list[str]) -> list[str]:
    """The floor has no style: it stands beside protocol only."""
    if parse(case)[0] == "protocol":
        return names
    return [name for name in names if name not in FLOORS]


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    cases = plan.cases or (QUICK_CASES if plan.quick else DEFAULT_CASES)
    if list(cases) == ["full"]:
        cases = FULL_CASES
    for case in cases:
        parse(case)
    names = chosen(plan, VARIANTS, BASELINE, problem)
    samples: list[Sample] = []
    for case in cases:
        some = variants_of(case, names)
        found = list(
            interleave(plan, case, some, lambda name, case=case: measure(name, case, plan))
        )
        source = counters.instruction_source(plan.instructions)[0]
        if source == "cachegrind" and parse(case)[1] > 0 and found:
            counters.add_instructions(
                plan, found, some, lambda name, case=case: cachegrind(name, case, plan)
            )
        samples += found
    return samples
