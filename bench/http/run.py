"""Measures HTTP servers, interleaved, one server core.

A sample is one server started afresh and:

1. eight connections whose responses are compared byte for byte;
2. warm-up, then wrk on 64 connections: requests/s, p50, p99, CPU time and, where the machine
   counts them, instructions per request. wrk's byte count must fit its request count;
3. our own load generator on 64 connections, every body compared, every connection proved served,
   under the system call tracepoint: system calls per request;
4. h2load at a fixed rate that all servers get alike: p50 and p99 of an unsaturated server.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path

from bench import counters
from bench.common import (
    BenchError,
    Load,
    Plan,
    Sample,
    Server,
    chosen,
    free_port,
    interleave,
)
from bench.http import servers

CONNECTIONS = 64
IDLE_CONNECTIONS = 10_000
IDLE_SMALL = 500
PACED_CONNECTIONS = 20
PACED_RATE = 50  # requests per second and connection: 1,000 in all, below every server's limit
WARM_UP_SECONDS = 0.5
CACHEGRIND_REQUESTS = 1_500
WRK_SCRIPT = Path(__file__).with_name("wrk.lua")

APPLICATIONS = {
    "plain": ("bench.http.plain:app", b"Hello, world!"),
    "fastapi": ("bench.http.fastapi_json:app", b'{"message":"Hello, world!"}'),
}
CASES = (*APPLICATIONS, "idle")


def verify(port: int, body: bytes) -> int:
    """Asks on several connections and returns the size of one response, head included."""
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    sizes = set()
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            address = ("127.0.0.1", port)
            connection = stack.enter_context(socket.create_connection(address, timeout=10))
            for _ in range(3):
                connection.sendall(request)
                sizes.add(_read_response(connection, body))
    return max(sizes)


def _read_response(connection: socket.socket, body: bytes) -> int:
    data = b""
    while True:
        more = connection.recv(65536)
        if not more:
            raise BenchError(f"the server closed early, after {data!r}")
        data += more
        head, found, rest = data.partition(b"\r\n\r\n")
        if found and len(rest) >= len(body):
            break
    if not head.startswith(b"HTTP/1.1 200 ") or rest != body:
        raise BenchError(f"wrong response: {data!r}")
    return len(data)


def wrk(port: int, seconds: float, response_bytes: int, core: int) -> dict:
    """One run of wrk; its own figures, checked."""
    whole = max(1, round(seconds))  # wrk takes whole seconds only
    child = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{whole}", "--latency", "-s", str(WRK_SCRIPT),
         f"http://127.0.0.1:{port}/"],
        capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    lines = [line for line in child.stdout.splitlines() if line.startswith("RESULT ")]
    if child.returncode != 0 or not lines:
        raise BenchError(f"wrk failed: {child.stdout}{child.stderr}")
    result = json.loads(lines[0].removeprefix("RESULT "))
    if result["failed"]:
        raise BenchError(f"wrk saw {result['failed']} failed requests: {child.stdout}")
    unexplained = abs(result["bytes"] - result["requests"] * response_bytes)
    if unexplained > CONNECTIONS * response_bytes:
        raise BenchError(
            f"wrk read {result['bytes']} bytes for {result['requests']} responses of "
            f"{response_bytes} bytes"
        )
    return result


def paced(port: int, seconds: float, core: int) -> dict[str, float]:
    """Latency at a fixed rate, by h2load over HTTP/1.1."""
    with tempfile.TemporaryDirectory(prefix="bench-h2load-") as folder:
        log = Path(folder, "log")
        child = subprocess.run(
            ["h2load", "--h1", f"-c{PACED_CONNECTIONS}", f"--rps={PACED_RATE}",
             f"-D{max(1, round(seconds))}", f"--log-file={log}", f"http://127.0.0.1:{port}/"],
            capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip
        if child.returncode != 0 or not log.exists():
            raise BenchError(f"h2load failed: {child.stdout}{child.stderr}")
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    if not rows or any(row[1] != "200" for row in rows):
        raise BenchError("h2load saw a response that is not 200")
    times = sorted(int(row[2]) for row in rows)
    return {
        "paced_p50_us": times[len(times) // 2],
        "paced_p99_us": times[min(len(times) - 1, len(times) * 99 // 100)],
    }


def start(name: str, case: str, plan: Plan) -> tuple[Server, int]:
    port = free_port()
    argv, environment = servers.command(name, APPLICATIONS[case][0], port, plan.python)
    server = Server(argv, plan.cores.server, environment)
    server.wait_port(port)
    return server, port


def measure(name: str, case: str, plan: Plan) -> Sample:
    """One sample of one server."""
    body = APPLICATIONS[case][1]
    server, port = start(name, case, plan)
    with server:
        size = verify(port, body)
        if not plan.quick:
            wrk(port, WARM_UP_SECONDS, size, plan.cores.client)
        events = counters.HARDWARE if counters.hardware_problem() is None else ()
        with counters.Window(server, plan.cores, events) as window:
            result = wrk(port, plan.seconds, size, plan.cores.client)
        metrics = window.per(result["requests"])
        metrics["requests_per_s"] = result["requests"] * 1e6 / result["wall_us"]
        metrics["bytes"] = result["bytes"] / result["requests"]
        metrics["p50_us"], metrics["p99_us"] = result["p50_us"], result["p99_us"]
        metrics.update(count_syscalls(server, port, body, plan))
        if not plan.quick:
            metrics.update(paced(port, min(plan.seconds, 2), plan.cores.client))
    return Sample(case, name, 0, metrics, window.disturbed)


def count_syscalls(server: Server, port: int, body: bytes, plan: Plan) -> dict[str, float]:
    core = plan.cores.client
    with Load(port, CONNECTIONS, core, http="/", expect=body.decode()) as load:
        if counters.syscalls_problem():
            load.run(0.2)  # the proof that connections are served is wanted all the same
            return {}
        events = (counters.SYSCALLS,)
        with counters.Window(server, plan.cores, events, (load.pid,)) as window:
            result = load.run(min(plan.seconds, 1.0))
        return {"syscalls": window.per(result["messages"])["syscalls"]}


def measure_idle(name: str, plan: Plan) -> Sample:
    """Thousands of idle keep-alive connections beside 64 busy ones."""
    count = IDLE_SMALL if plan.quick else IDLE_CONNECTIONS
    body = APPLICATIONS["plain"][1]
    core = plan.cores.client
    server, port = start(name, "plain", plan)
    with server:
        size = verify(port, body)
        wrk(port, 1, size, core)  # the heap grows to its busy size first
        before = server.rss_bytes()
        with Load(port, count, core, http="/", expect=body.decode()) as idle:
            after = server.rss_bytes()
            with counters.Window(server, plan.cores, client_pids=(idle.pid,)) as window:
                result = wrk(port, plan.seconds, size, core)
            idle.count(count)  # every idle connection still answers, byte for byte
    return Sample("idle", name, 0, {
        "rss_per_idle": (after - before) / count,
        "requests_per_s": result["requests"] * 1e6 / result["wall_us"],
        "p50_us": result["p50_us"],
        "p99_us": result["p99_us"],
        "cpu_ns": window.cpu / result["requests"],
    }, window.disturbed)  # fmt: skip


def cachegrind(name: str, case: str, plan: Plan) -> float:
    """User instructions of a request, by two runs under Cachegrind."""
    body = APPLICATIONS[case][1]

    def run(requests: int) -> int:
        tool = counters.Cachegrind()
        port = free_port()
        argv, environment = servers.command(name, APPLICATIONS[case][0], port, plan.python)
        environment.update(counters.CACHEGRIND_ENVIRONMENT)
        with Server(tool.command(argv), plan.cores.server, environment) as server:
            server.wait_port(port, timeout=120)
            core = plan.cores.client
            with Load(port, CONNECTIONS, core, http="/", expect=body.decode()) as load:
                load.count(requests)
            tool.end(server, port)
        return tool.instructions()

    return counters.instructions_per(run, CACHEGRIND_REQUESTS)


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    names = chosen(plan, servers.SERVERS, servers.BASELINE, servers.problem)
    samples: list[Sample] = []
    cases = plan.cases or CASES
    for case in cases:
        if case not in CASES:
            raise BenchError(f"unknown case {case!r}: {', '.join(CASES)}")
    for case in plan.each(cases):
        one = (lambda name: measure_idle(name, plan)) if case == "idle" else (
            lambda name, case=case: measure(name, case, plan))  # fmt: skip
        found = list(interleave(plan, case, names, one))
        if case != "idle":
            counters.add_instructions(
                plan, found, counters.counted(plan, "http", case, names),
                lambda name, case=case: cachegrind(name, case, plan),
            )  # fmt: skip
        samples += found
    return samples
