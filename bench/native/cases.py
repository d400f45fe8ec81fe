"""The crossings, each as `async def case(loop, count)` that does `count` of them; see micro/cases.py.

A loop that is not pyloop's does the same by run_in_executor() with a function that does nothing, the
least that it can cost there. The compiled modules are found through `sys.path`, by run.py.
"""

from __future__ import annotations

import functools

TOGETHER = 100  # operations on their way at once, in the cases that say so


def _nothing() -> None:
    pass


def _starter(loop, case: str):
    """A function that starts one operation and returns its awaitable."""
    if not type(loop).__module__.startswith("pyloop"):
        return functools.partial(loop.run_in_executor, None, _nothing)
    import bench_native
    from pyloop import native

    if case == "call":
        return functools.partial(native.call, bench_native.nothing)
    return getattr(bench_native, case)


async def _one_by_one(start, count: int) -> None:
    for _ in range(count):
        await start()


async def _together(start, count: int) -> None:
    for _ in range(count // TOGETHER):
        for future in [start() for _ in range(TOGETHER)]:
            await future


async def call(loop, count):
    """await pyloop.native.call(function)"""
    await _one_by_one(_starter(loop, "call"), count)


async def call_100(loop, count):
    """The same, a hundred at once."""
    await _together(_starter(loop, "call"), count)


async def task(loop, count):
    """A native task started and awaited."""
    await _one_by_one(_starter(loop, "task"), count)


async def task_100(loop, count):
    """The same, a hundred at once."""
    await _together(_starter(loop, "task"), count)


async def promise(loop, count):
    """A future that a thread of C completes."""
    await _one_by_one(_starter(loop, "promise"), count)


async def promise_100(loop, count):
    """The same, a hundred at once."""
    await _together(_starter(loop, "promise"), count)


async def tokio(loop, count):
    """A Tokio task awaited through pyo3-async-runtimes."""
    import bench_tokio

    await _one_by_one(bench_tokio.task, count)


async def tokio_100(loop, count):
    """The same, a hundred at once."""
    import bench_tokio

    await _together(bench_tokio.task, count)


MAIN = (call, task, promise, call_100, task_100, promise_100)
