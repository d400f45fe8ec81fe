"""Many strands on four workers: nothing lost, nothing twice, every outcome where it belongs.

PYLOOP_STRESS_TASKS sets how many; `tools/test stress/cp313t` runs the full size, 1,000,000, three times.
"""

import asyncio
import os
import threading

import pytest

import pyloop
from pyloop import sync

TASKS = int(os.environ.get("PYLOOP_STRESS_TASKS", "30000"))
BATCH = 500
WORKERS = 4


class Expected(Exception):
    pass


class Shared:
    """What the strands of one run have in common."""

    def __init__(self):
        self.lock = sync.Lock()
        self.semaphore = sync.Semaphore(3)
        self.queue = sync.Queue(maxsize=16)
        self.locked = 0
        self.inside = 0
        self.threads = set()


async def plain(shared, i):
    shared.threads.add(threading.get_ident())
    await asyncio.sleep(0)
    return i


async def failing(shared, i):
    if i % 2:
        await asyncio.sleep(0)
    raise Expected(i)


async def locking(shared, i):
    async with shared.lock:
        locked = shared.locked
        await asyncio.sleep(0)
        shared.locked = locked + 1
    return i


async def limited(shared, i):
    async with shared.semaphore:
        assert shared.semaphore._value >= 0
        await asyncio.sleep(0)
    return i


async def grouped(shared, i):
    results = []

    async def child(k):
        await asyncio.sleep(0)
        results.append(k)

    thread = threading.get_ident()
    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as group:
            for k in range(3):
                group.create_task(child(k))
    assert sorted(results) == [0, 1, 2]
    assert threading.get_ident() == thread
    return i


async def nested(shared, i):
    return await pyloop.spawn(plain(shared, i))


async def endless(shared, i):
    await asyncio.sleep(3600)


async def put(shared, i):
    await shared.queue.put(i)
    return i


async def get(shared, i):
    await shared.queue.get()
    return i


KINDS = [plain, failing, locking, limited, grouped, nested, put, get]


async def check(i, kind, task):
    if kind is failing:
        with pytest.raises(Expected) as caught:
            await task
        assert caught.value.args == (i,)
    else:
        assert await task == i


async def cancel(shared, i):
    """Before it began, while it begins, or while it sleeps: it never gets further."""
    task = pyloop.spawn(endless(shared, i))
    if i % 3:
        await asyncio.sleep(0.001 if i % 3 == 1 else 0)
    assert task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def cross(shared, i):
    """A future of this strand's view: awaited in some, completed in another."""
    future = asyncio.get_running_loop().create_future()

    async def wait():
        return await future

    async def complete():
        await asyncio.sleep(0)
        future.set_result(i)

    waiters = [pyloop.spawn(wait()) for _ in range(3)]
    await pyloop.spawn(complete())
    assert await future == i
    assert await asyncio.gather(*waiters) == [i] * 3


async def batch(shared, first):
    tasks = [(i, KINDS[i % len(KINDS)]) for i in range(first, min(first + BATCH, TASKS))]
    spawned = [(i, kind, pyloop.spawn(kind(shared, i))) for i, kind in tasks]
    for i in range(first, first + BATCH, 50):
        await cancel(shared, i)
        await pyloop.spawn(cross(shared, i))
    for i, kind, task in spawned:
        await check(i, kind, task)


async def drive(shared):
    for first in range(0, TASKS, BATCH):
        await asyncio.wait_for(batch(shared, first), 120)


def test_stress(backend):
    reports = []
    loop = pyloop.Loop(backend=backend, parallel=True, workers=WORKERS)
    loop.set_exception_handler(lambda _, context: reports.append(context))
    shared = Shared()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(drive(shared))
    assert reports == []
    assert shared.locked == sum(KINDS[i % len(KINDS)] is locking for i in range(TASKS))
    assert 1 <= len(shared.threads) <= WORKERS
