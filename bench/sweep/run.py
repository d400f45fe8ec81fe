"""Measures io_uring, epoll and what `auto` chooses, from 1 to 4096 connections.

Cases are LOAD/CONNECTIONS: `protocol` and `native-streams` are the echo of 1 KiB, `http` is keep-alive requests
to pyloop's server. What a sample is stands in echo/run.py.
"""

from __future__ import annotations

import re

from bench.common import BenchError, Load, Plan, Sample, Server, chosen, free_port, interleave, loop_problem
from bench.echo import run as echo
from bench.http import run as http
from bench.http import servers

BASELINE = "pyloop-epoll"
VARIANTS = ("pyloop-epoll", "pyloop-io_uring", "pyloop-auto")
LOADS = ("protocol", "native-streams", "http")
REFERENCE = ("protocol/1", "protocol/1024", "http/64")
"""Few connections at depth one; many; HTTP keep-alive."""
CONNECTIONS = (1, 4, 16, 64, 256, 1024, 4096)
CASES = tuple(f"{load}/{n}" for load in ("protocol", "http") for n in CONNECTIONS)
QUICK_CASES = REFERENCE


def parse(case: str) -> tuple[str, int]:
    found = re.fullmatch(r"([\w-]+)/(\d+)", case)
    if not found or found[1] not in LOADS or int(found[2]) == 0:
        raise BenchError(
            f"unknown case {case!r}: LOAD/CONNECTIONS as http/64; loads {', '.join(LOADS)}"
        )
    return found[1], int(found[2])


def measure(variant: str, case: str, plan: Plan) -> Sample:
    """One sample of one variant."""
    load, connections = parse(case)
    if load != "http":
        return echo.measure(variant, f"{load}/1KiB/{connections}", plan)
    module, body = http.APPLICATIONS["plain"]
    port = free_port()
    argv, environment = servers.command(variant, module, port, plan.python)
    core = plan.cores.client
    with Server(argv, plan.cores.server, environment) as server:
        server.wait_port(port)
        with Load(port, connections, core, http="/", expect=body.decode()) as client:
            metrics, disturbed = echo.measure_load(server, client, plan)
    return Sample(case, variant, 0, metrics, disturbed)


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    cases = plan.cases or (QUICK_CASES if plan.quick else CASES)
    for case in cases:
        parse(case)
    names = chosen(plan, VARIANTS, BASELINE, loop_problem)
    samples: list[Sample] = []
    for case in plan.each(cases):
        samples += interleave(
            plan, case, names, lambda name, case=case: measure(name, case, plan)
        )
    return samples
