"""Measures real programs on the loops: a loop can win micro-benchmarks and lose here.

`uvicorn` (httptools) and `aiohttp` answer "Hello, world!" on 64 kept-alive connections, `websockets`
echoes 1 KiB on 64; `asyncpg` and `redis` are clients with 16 connections to a server on the other
core, and there the program that is measured is the client.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from bench import counters
from bench.common import (
    LOOPS,
    BenchError,
    Load,
    LoadProcess,
    Plan,
    Sample,
    Server,
    chosen,
    free_port,
    interleave,
    loop_problem,
    run_python,
    say,
)
from bench.echo import run as echo
from bench.http import run as http
from bench.http import servers as http_servers
from bench.micro import run as micro
from bench.servers import clients, databases, programs

BASELINE = "uvloop"
CONNECTIONS = 64
MESSAGE_BYTES = 1024
CACHEGRIND_MESSAGES = 1_500
DATABASES = {
    "asyncpg": (databases.postgres, databases.postgres_problem, clients.asyncpg_select),
    "redis": (databases.redis, databases.redis_problem, clients.redis_get),
}
SERVERS = ("uvicorn", "aiohttp", "websockets")
CASES = (*SERVERS, *DATABASES)
QUICK_CASES = ("aiohttp", "websockets")


@contextlib.contextmanager
def serving(variant: str, case: str, plan: Plan, tool: counters.Cachegrind | None = None,
            ) -> Iterator[tuple[Server, int]]:  # fmt: skip
    """The server of a case on a loop, and its port."""
    if case == "uvicorn":
        port = free_port()
        argv, environment = http_servers.command(
            f"uvicorn-{variant}", http.APPLICATIONS["plain"][0], port, plan.python
        )
    else:
        port = 0
        argv = [plan.python, "-m", "bench.servers.programs", variant, case]
        environment = {}
    if tool is not None:
        argv = tool.command(argv)
        environment = {**environment, **counters.CACHEGRIND_ENVIRONMENT}
    with Server(argv, plan.cores.server, environment) as server:
        if port:
            server.wait_port(port, timeout=120)
        yield server, port or server.read_port()


def load_of(case: str, port: int, plan: Plan, connections: int = CONNECTIONS) -> LoadProcess:
    core = plan.cores.client
    if case == "websockets":
        argv = [sys.executable, "-m", "bench.servers.ws_load"]
        return LoadProcess([*argv, str(port), str(connections), str(MESSAGE_BYTES)], {core})
    return Load(port, connections, core, http="/", expect=programs.BODY)


def measure_server(variant: str, case: str, plan: Plan) -> Sample:
    with serving(variant, case, plan) as (server, port), load_of(case, port, plan) as load:
        metrics, disturbed = echo.measure_load(server, load, plan)
    return Sample(case, variant, 0, metrics, disturbed)


def client_case(case: str) -> str:
    function = DATABASES[case][2]
    return f"{function.__module__}:{function.__name__}"


def measure_client(variant: str, case: str, plan: Plan, database: Server, port: int) -> Sample:
    sample = micro.measure(
        variant, client_case(case), plan, {"BENCH_PORT": str(port)}, database, min(plan.seconds, 1.0)
    )
    sample.metrics["messages_per_s"] = 1e9 / sample.metrics["ns"]
    return sample


def count_server(variant: str, case: str, plan: Plan) -> float:
    """User instructions of a message, by two runs under Cachegrind."""

    def run(messages: int) -> int:
        tool = counters.Cachegrind()
        with serving(variant, case, plan, tool) as (server, port):
            with load_of(case, port, plan) as load:
                load.count(messages)
            tool.end(server, port)
        return tool.instructions()

    return counters.instructions_per(run, CACHEGRIND_MESSAGES)


def problem_of(case: str, python: str) -> str | None:
    """None if the case can be measured here, otherwise why not."""
    try:
        run_python(["-c", f"import {case}"], python)
    except (BenchError, subprocess.TimeoutExpired) as error:
        return str(error)
    return DATABASES[case][1]() if case in DATABASES else None


def samples_of(case: str, names: list[str], plan: Plan) -> list[Sample]:
    # Where time is limited these are not counted: five programs under Cachegrind take ten minutes.
    counts = plan.budget is None and counters.instruction_source(plan.instructions)[0] == "cachegrind"
    if case in SERVERS:
        found = list(interleave(plan, case, names, lambda name: measure_server(name, case, plan)))
        if counts:
            counters.add_instructions(plan, found, names, lambda name: count_server(name, case, plan))
        return found
    with DATABASES[case][0](plan.cores.client) as (database, port):
        found = list(interleave(
            plan, case, names, lambda name: measure_client(name, case, plan, database, port)
        ))  # fmt: skip
        if counts:
            os.environ["BENCH_PORT"] = str(port)
            counters.add_instructions(
                plan, found, names, lambda name: micro.cachegrind(name, client_case(case), plan)
            )
    return found


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite. A case whose program is not here is skipped aloud."""
    cases = plan.cases or (QUICK_CASES if plan.quick else CASES)
    for case in cases:
        if case not in CASES:
            raise BenchError(f"unknown case {case!r}: {', '.join(CASES)}")
    names = chosen(plan, LOOPS, BASELINE, loop_problem)
    samples: list[Sample] = []
    for case in plan.each(cases):
        trouble = problem_of(case, plan.python)
        if trouble is None:
            samples += samples_of(case, names, plan)
        elif plan.cases:
            raise BenchError(f"{case}: {trouble}")
        else:
            plan.skipped[case] = trouble
            say(f"SKIPPED {case}: {trouble}")
    return samples
