"""The same strands by plain threads, by one loop a thread, and by pyloop's parallel mode.

A load is a list of counts, one for each strand. Where threads share nothing, each gets a block of
neighbours, as a client does that sends each group of connections to a process of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from bench.common import new_loop

Handler = Callable[[int], Coroutine]

STRANDS = 16
HEAVY = 10
"""How much more each strand of the first half has to do in a skewed load."""


@dataclass(frozen=True)
class Times:
    wall_ns: int
    cpu_ns: int  # of the process


def load(shape: str, operations: int) -> list[int]:
    """Counts that add up to about `operations`."""
    heavy = HEAVY if shape == "skewed" else 1
    unit = max(1, round(2 * operations / STRANDS / (heavy + 1)))
    return [unit * heavy] * (STRANDS // 2) + [unit] * (STRANDS // 2)


def _timed_threads(body: Callable[[list[int], threading.Barrier], None], counts: list[int],
                   workers: int) -> Times:  # fmt: skip
    share = len(counts) // workers
    failed: list[BaseException] = []
    began: list[int] = []

    def begin() -> None:  # before anybody leaves: this thread may have to wait for a core
        began[:] = time.process_time_ns(), time.perf_counter_ns()

    barrier = threading.Barrier(workers, action=begin)

    def run(block: list[int]) -> None:
        try:
            body(block, barrier)
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [
        threading.Thread(target=run, args=(counts[i * share : (i + 1) * share],))
        for i in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    if failed:
        raise failed[0]
    return Times(wall_ns - began[1], cpu_ns - began[0])


def by_threads(handler: Handler, counts: list[int], workers: int) -> Times:
    """No loop at all: every strand of a thread is driven one step in turn."""

    def body(block, barrier):
        strands = [handler(count) for count in block]
        barrier.wait()
        while strands:
            left = []
            for strand in strands:
                try:
                    strand.send(None)
                    left.append(strand)
                except StopIteration:
                    pass
            strands = left

    return _timed_threads(body, counts, workers)


def by_loops(name: str, handler: Handler, counts: list[int], workers: int) -> Times:
    """One loop a thread."""

    async def main(block, barrier):
        barrier.wait()
        await asyncio.gather(*(handler(count) for count in block))

    def body(block, barrier):
        loop = new_loop(name)
        try:
            loop.run_until_complete(main(block, barrier))
        finally:
            loop.close()

    return _timed_threads(body, counts, workers)


def by_workers(backend: str, handler: Handler, counts: list[int], workers: int) -> Times:
    """pyloop's parallel mode."""
    import pyloop

    async def main():
        cpu, start = time.process_time_ns(), time.perf_counter_ns()
        await asyncio.gather(*(pyloop.spawn(handler(count)) for count in counts))
        return Times(time.perf_counter_ns() - start, time.process_time_ns() - cpu)

    loop = pyloop.Loop(backend=backend, parallel=True, workers=workers)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def run(variant: str, handler: Handler, counts: list[int], workers: int) -> Times:
    """One timed run of a variant of run.py."""
    if variant == "threads":
        return by_threads(handler, counts, workers)
    if variant.startswith("pyloop-") and not variant.endswith(" a thread"):
        return by_workers(variant.removeprefix("pyloop-"), handler, counts, workers)
    return by_loops(variant.removesuffix(" a thread"), handler, counts, workers)
