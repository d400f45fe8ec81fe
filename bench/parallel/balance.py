"""Where connections go, and what a heavy strand costs the others."""

from __future__ import annotations

import asyncio
import collections
import socket
import statistics
import threading
import time

import pyloop
from bench.parallel import handlers

CONNECTIONS = 8
LIGHT = 8
WEIGHT = 100
PAUSE_SECONDS = 0.001


class _Noted(asyncio.Protocol):
    """Notes when and in which thread it was made, then echoes."""

    def __init__(self, made: list[tuple[int, int]]):
        self.made = made

    def connection_made(self, transport):
        self.transport = transport
        self.made.append((time.perf_counter_ns(), threading.get_ident()))

    def data_received(self, data):
        self.transport.write(data)


def _connect(port: int) -> tuple[int, list[socket.socket]]:
    start = time.perf_counter_ns()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    for client in clients:
        client.sendall(b"x")
    for client in clients:
        if client.recv(1) != b"x":
            raise RuntimeError("a connection was lost")
    return start, clients


def spread(backend: str) -> dict[str, float]:
    """Until CONNECTIONS that the first of two workers accepts are where they stay."""
    made: list[tuple[int, int]] = []

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Noted(made), "127.0.0.1", 0)
        start, clients = await loop.run_in_executor(
            None, _connect, server.sockets[0].getsockname()[1]
        )
        for client in clients:
            client.close()
        server.close()
        return start

    start = pyloop.run(main(), parallel=True, workers=2, backend=backend)
    counts = collections.Counter(thread for _, thread in made)
    return {
        "spread_ms": (max(when for when, _ in made) - start) / 1e6,
        "busiest": max(counts.values()) / CONNECTIONS,
    }


async def _light(seconds: float, latencies: list[int]) -> None:
    """One operation after each pause; how long after the end of the pause it is done."""
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while (start := time.perf_counter_ns()) < end:
        await asyncio.sleep(PAUSE_SECONDS)
        await handlers.integers(1)
        latencies.append(time.perf_counter_ns() - start - int(PAUSE_SECONDS * 1e9))


async def _heavy(ended: threading.Event) -> None:
    """As much as WEIGHT light ones, for as long as they run."""
    while not ended.is_set():
        await handlers.integers(WEIGHT)


def _latencies(backend: str, seconds: float, has_heavy: bool) -> list[int]:
    latencies: list[int] = []

    async def main():
        ended = threading.Event()
        strands = [pyloop.spawn(_light(seconds, latencies)) for _ in range(LIGHT)]
        heavy = [pyloop.spawn(_heavy(ended))] if has_heavy else []
        await asyncio.gather(*strands)
        ended.set()
        await asyncio.gather(*heavy)

    pyloop.run(main(), parallel=True, workers=2, backend=backend)
    return latencies


def skew(backend: str, seconds: float) -> dict[str, float]:
    """p99 of LIGHT strands alone, and beside one that never rests."""
    found = {}
    for name, has_heavy in (("alone", False), ("beside", True)):
        latencies = _latencies(backend, seconds, has_heavy)
        found[f"p99_{name}_us"] = statistics.quantiles(latencies, n=100)[98] / 1e3
    return {**found, "p99_cost": found["p99_beside_us"] / found["p99_alone_us"]}
