"""Measures io_uring, epoll and what `auto` chooses, from 1 to 4096 connections.

Cases are LOAD/CONNECTIONS or LOAD/SIZE/CONNECTIONS: `http` is keep-alive requests to pyloop's
server, `uvicorn`, `aiohttp` and `websockets` are those of the servers suite, and the other loads are
styles of the echo suite, with 1 KiB where no size is named. asyncio, uvloop and plain C take part
where they are asked for; with uvloop among them, ratios are to uvloop.
All servers of a round run side by side and take turns of some 20 ms: differences of a few per cent
show even on a busy machine, and both sides of a ratio saw the same machine.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench import counters
from bench.common import (
    AGAIN,
    BenchError,
    Load,
    LoadProcess,
    NothingToMeasure,
    Plan,
    Sample,
    Server,
    chosen,
    free_port,
    say,
)
from bench.echo import run as echo
from bench.echo.places import TCP_STYLES
from bench.http import run as http
from bench.http import servers
from bench.servers import run as others

BASELINE = "pyloop-epoll"
VARIANTS = ("pyloop-epoll", "pyloop-io_uring", "pyloop-auto")
OTHERS = ("asyncio", "uvloop", *echo.FLOORS)
"""Only where `--variants` names them."""
LOADS = ("http", *others.SERVERS, *echo.STYLES)
REFERENCE = ("protocol/1", "protocol/1024", "http/64")
"""Few connections at depth one; many; HTTP keep-alive."""
CONNECTIONS = (1, 4, 16, 64, 256, 1024, 4096)
CASES = tuple(f"{load}/{n}" for load in ("protocol", "http") for n in CONNECTIONS)
QUICK_CASES = REFERENCE
TURNS = 20
MESSAGES = 500  # of a turn, at least


@dataclass(frozen=True)
class Side:
    server: Server
    client: LoadProcess
    count: int
    syscalls: float | None  # of a message


def parse(case: str) -> tuple[str, int, int]:
    """Load, message size and connections of a case's name."""
    found = re.fullmatch(r"([\w-]+)/(?:(\d+)KiB/)?(\d+)", case)
    known = found and found[1] in LOADS and int(found[2] or 1) > 0 and int(found[3]) > 0
    if not known or (found[2] and found[1] not in echo.STYLES):
        raise BenchError(
            f"unknown case {case!r}: LOAD/CONNECTIONS as http/64, or LOAD/SIZE/CONNECTIONS as "
            f"protocol/100KiB/64; loads {', '.join(LOADS)}, a size for {', '.join(echo.STYLES)}"
        )
    return found[1], int(found[2] or 1) * 1024, int(found[3])


def known_variants(plan: Plan) -> tuple[str, ...]:
    return VARIANTS + OTHERS if plan.variants else VARIANTS


def baseline_of(plan: Plan) -> str:
    return "uvloop" if "uvloop" in plan.variants else BASELINE


def cases_of(plan: Plan) -> list[str]:
    """What is measured. Another loop has no server of HTTP here, so there is nothing to compare it with."""
    cases = plan.cases or (QUICK_CASES if plan.quick else CASES)
    foreign = [name for name in plan.variants if name in OTHERS]
    kept = []
    for case in cases:
        if parse(case)[0] != "http" or not foreign:
            kept.append(case)
            continue
        plan.skipped[case] = f"the load http is measured on pyloop's server only, not on {foreign[0]}"
        say(f"SKIPPED {case}: {plan.skipped[case]}")
    if not kept:
        raise NothingToMeasure("nothing to measure")
    return kept


def start(stack: contextlib.ExitStack, variant: str, case: str, plan: Plan,
          ) -> tuple[Server, LoadProcess]:  # fmt: skip
    """A server and its client, which is not connected yet."""
    load, size, connections = parse(case)
    if load in others.SERVERS:
        server, port = stack.enter_context(others.serving(variant, load, plan))
        return server, others.load_of(load, port, plan, connections)
    if load != "http":
        running = stack.enter_context(echo.serving(variant, load, connections, plan))
        return running.server, running.load(connections, size)
    module, body = http.APPLICATIONS["plain"]
    port = free_port()
    argv, environment = servers.command(variant, module, port, plan.python)
    server = stack.enter_context(Server(argv, plan.cores.server, environment))
    server.wait_port(port)
    core = plan.cores.client
    return server, Load(port, connections, core, http="/", expect=body.decode())


@contextlib.contextmanager
def serving(variant: str, case: str, plan: Plan) -> Iterator[Side]:
    """One server with its client, connected and warm."""
    count = max(MESSAGES, 2 * parse(case)[2])
    with contextlib.ExitStack() as stack:
        server, client = start(stack, variant, case, plan)
        stack.enter_context(client)
        client.count(2 * count)
        syscalls = None
        if not counters.syscalls_problem():
            pids = (client.pid,)
            with counters.Window(server, plan.cores, (counters.SYSCALLS,), pids) as window:
                client.count(count)
            syscalls = window.per(count)["syscalls"]
        yield Side(server, client, count, syscalls)


def measure(side: Side, plan: Plan) -> tuple[dict[str, float], float]:
    """One turn of one server: its metrics, and how disturbed it was."""
    with counters.Window(side.server, plan.cores, (), (side.client.pid,)) as window:
        result = side.client.count(side.count)
    metrics = {
        "messages_per_s": result["messages"] * 1e9 / result["wall_ns"],
        "bytes": result["bytes"] / result["messages"],
        "p50_us": result["p50_ns"] / 1000,
        "p99_us": result["p99_ns"] / 1000,
        **window.clocks(result["messages"]),
        "server_busy": window.cpu / window.wall,
    }
    if side.syscalls is not None:
        metrics["syscalls"] = side.syscalls
    return metrics, window.disturbed


def able(plan: Plan, case: str, names: list[str]) -> list[str]:
    """Those that have the load; plain C echoes over TCP only."""
    load = parse(case)[0]
    if load in (*TCP_STYLES, "rate"):
        return names
    for name in names:
        if name in echo.FLOORS:
            plan.skipped[f"{case}, {name}"] = f"plain C has no {load}"
            say(f"SKIPPED {case}, {name}: {plan.skipped[f'{case}, {name}']}")
    return [name for name in names if name not in echo.FLOORS]


def alternate(plan: Plan, case: str, names: list[str]) -> Iterator[Sample]:
    """Rounds of fresh servers side by side, each with TURNS turns; a turn is what ratios are
    formed within."""
    turns = 2 if plan.quick else TURNS
    started = time.monotonic()
    for number in range(plan.pairs):
        if plan.budget is not None and not plan.budget.has_time(number, started):
            break
        with contextlib.ExitStack() as stack:
            sides = {
                name: stack.enter_context(serving(name.removesuffix(AGAIN), case, plan))
                for name in names
            }
            for turn in range(number * turns, (number + 1) * turns):
                shift = turn % len(names)
                for name in names[shift:] + names[:shift]:
                    metrics, disturbed = measure(sides[name], plan)
                    yield Sample(case, name, turn, metrics, disturbed)
        say(f"  {case}  round {number + 1}/{plan.pairs}")


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    cases = cases_of(plan)
    names = chosen(plan, known_variants(plan), BASELINE, echo.problem)
    samples: list[Sample] = []
    for case in plan.each(cases):
        samples += alternate(plan, case, able(plan, case, names))
    return samples
