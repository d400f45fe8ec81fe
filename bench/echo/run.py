"""Measures echo, over TCP and everything else: each loop in each style, plain C as the floor.

A sample is one server started afresh on its core, N connections of our load generator on the
other, one message in flight on each, every byte compared: a timed window, then a shorter one under
the system call tracepoint.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench import counters
from bench.common import (
    LOOPS,
    PEERS,
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
from bench.echo.places import STYLES, TCP_STYLES, Place, place

BASELINE = "uvloop"
FLOORS = ("c-epoll", "c-io_uring")
VARIANTS = (*LOOPS, *PEERS, *FLOORS)
SIZES = {"1KiB": 1024, "10KiB": 10 * 1024, "100KiB": 100 * 1024}
CONNECTIONS = (1, 64, 1024)
WARM_UP_SECONDS = 0.3  # at most, and no longer than half the window
SYSCALL_SECONDS = 0.5  # the same
CACHEGRIND_MESSAGES = 4_000
IDLE_SMALL = 500

OTHER_CASES = (
    "tls/1KiB/1", "tls/1KiB/64", "tls/100KiB/64",
    "udp/1KiB/1", "udp/1KiB/64",
    "unix/1KiB/1", "unix/1KiB/64", "unix/100KiB/64",
    "pipe/1KiB/1", "pipe/1KiB/64",
    "rate/1KiB/64",
)  # fmt: skip
IDLE_CASES = (
    "protocol/idle/10000", "streams/idle/10000", "native-streams/idle/10000", "tls/idle/1000",
    "protocol/idle/18000", "streams/idle/18000", "native-streams/idle/18000",
    "buffered/idle/10000", "unix/idle/10000",
)  # fmt: skip
DEFAULT_IDLE_CASES = IDLE_CASES[:4]

DEFAULT_CASES = (
    *(f"{style}/1KiB/64" for style in STYLES),
    "protocol/1KiB/1",
    "protocol/1KiB/256",
    "protocol/100KiB/64",
    "streams/100KiB/64",
    "native-streams/100KiB/64",
    *DEFAULT_IDLE_CASES,
)
"""Cases are STYLE/SIZE/CONNECTIONS or STYLE/idle/CONNECTIONS."""

FULL_CASES = (
    *(f"{style}/{size}/{n}" for style in TCP_STYLES for size in SIZES for n in CONNECTIONS),
    "protocol/1KiB/256",
    *OTHER_CASES,
    *IDLE_CASES,
)
QUICK_CASES = ("protocol/1KiB/64", "streams/1KiB/64")


def parse(case: str) -> tuple[str, int, int]:
    """Style, message size (0: idle) and connections of a case's name."""
    style, _, rest = case.partition("/")
    if style in STYLES:
        found = re.fullmatch(r"idle/(\d+)", rest)
        if found and int(found[1]) > 0 and style not in ("udp", "pipe", "rate"):
            return style, 0, int(found[1])
        found = re.fullmatch(r"(\d+)KiB/(\d+)", rest)
        if found and int(found[1]) > 0 and int(found[2]) > 0:
            return style, int(found[1]) * 1024, int(found[2])
    raise BenchError(
        f"unknown case {case!r}: STYLE/SIZE/CONNECTIONS as protocol/1KiB/64, or STYLE/idle/10000; "
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


@dataclass(frozen=True)
class Echo:
    """A server that runs, and how to load it."""

    server: Server
    port: int
    place: Place
    core: int

    def load(self, connections: int, size: int) -> Load:
        return Load(self.port, connections, self.core, size=size,
                    options=self.place.load_options, pass_fds=self.place.load_fds)  # fmt: skip


@contextlib.contextmanager
def serving(variant: str, style: str, connections: int, plan: Plan, tool=None) -> Iterator[Echo]:
    """The server of a style, started; under `tool` (Cachegrind) where that is given."""
    with place(style, connections) as where:
        argv = [*command(variant, where.server_style, plan.python), *where.server_arguments]
        environment = None
        if tool is not None:
            argv, environment = tool.command(argv), counters.CACHEGRIND_ENVIRONMENT
        with Server(
            argv, plan.cores.server, environment, pass_fds=where.server_fds
        ) as server:
            yield Echo(server, server.read_port(), where, plan.cores.client)


def measure(variant: str, case: str, plan: Plan) -> Sample:
    """One sample of one variant."""
    style, size, connections = parse(case)
    if size == 0:
        return measure_idle(variant, case, plan)
    with (
        serving(variant, style, connections, plan) as echo,
        echo.load(connections, size) as load,
    ):
        metrics, disturbed = measure_load(echo.server, load, plan)
    return Sample(case, variant, 0, metrics, disturbed)


def measure_load(server: Server, load: Load, plan: Plan) -> tuple[dict[str, float], float]:
    """The metrics of a message and how disturbed the window was."""
    load.run(min(plan.seconds / 2, WARM_UP_SECONDS))
    events = counters.HARDWARE if counters.hardware_problem() is None else ()
    with counters.Window(server, plan.cores, events, (load.pid,)) as window:
        result = load.run(plan.seconds)
    metrics = window.per(result["messages"])
    metrics["messages_per_s"] = result["messages"] * 1e9 / result["wall_ns"]
    metrics["bytes"] = result["bytes"] / result["messages"]
    for name in ("p50", "p99", "p999"):
        metrics[f"{name}_us"] = result[f"{name}_ns"] / 1000
    if plan.counts_syscalls() and not counters.syscalls_problem():
        events = (counters.SYSCALLS,)
        with counters.Window(server, plan.cores, events, (load.pid,)) as counted:
            result = load.run(min(plan.seconds, SYSCALL_SECONDS))
        metrics["syscalls"] = counted.per(result["messages"])["syscalls"]
    return metrics, window.disturbed


def measure_idle(variant: str, case: str, plan: Plan) -> Sample:
    """Memory of connections that were served once and then wait."""
    style, _, connections = parse(case)
    count = min(IDLE_SMALL, connections) if plan.quick else connections
    with serving(variant, style, count, plan) as echo, echo.load(64, 1024) as busy:
        busy.count(2_000)  # the heap grows to its busy size first
        before = echo.server.rss_bytes()
        with echo.load(count, 1024) as idle:
            after = echo.server.rss_bytes()
            pids = (busy.pid, idle.pid)
            with counters.Window(echo.server, plan.cores, (), pids) as window:
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
        with serving(variant, style, connections, plan, tool) as echo:
            with echo.load(connections, size) as load:
                load.count(messages)
            tool.end(echo.server, echo.port)
        return tool.instructions()

    return counters.instructions_per(run, max(CACHEGRIND_MESSAGES, connections))


def counted(case: str, names: list[str], plan: Plan) -> list[str]:
    """What Cachegrind counts; it needs a port to end the server by."""
    style, size, _ = parse(case)
    if size == 0 or style in ("udp", "unix", "pipe"):
        return []
    return counters.counted(plan, "echo", case, names)


def variants_of(case: str, names: list[str], plan: Plan) -> list[str]:
    """The floor has no style: it stands beside protocol and rate. Peers stand in a few cases."""
    style, size, connections = parse(case)
    left_out = set() if style in ("protocol", "rate") and size > 0 else set(FLOORS)
    if (size, connections) != (1024, 64) and not plan.variants:
        left_out |= set(PEERS)
    return [name for name in names if name not in left_out]


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    everything = list(plan.cases) == ["full"] or (plan.budget is not None and not plan.cases)
    cases = plan.cases or (QUICK_CASES if plan.quick else DEFAULT_CASES)
    if everything:
        cases = FULL_CASES
    for case in cases:
        parse(case)
    names = chosen(plan, VARIANTS, BASELINE, problem)
    samples: list[Sample] = []
    for case in plan.each(cases):
        some = variants_of(case, names, plan)
        found = list(
            interleave(plan, case, some, lambda name, case=case: measure(name, case, plan))
        )
        if found:
            counters.add_instructions(
                plan, found, counted(case, some, plan),
                lambda name, case=case: cachegrind(name, case, plan),
            )  # fmt: skip
        samples += found
    return samples
