"""The operations, each as `async def case(loop, count)` that does `count` of them.

What one operation is stands in each docstring; the same code runs on every loop.
"""

from __future__ import annotations

import asyncio
import shutil
import threading

GROUP = 100  # tasks that one gather or TaskGroup holds
BURST = 1_000  # callbacks put into the queue before any of them runs
SLEEP_NS = 1_000_000


def _nothing() -> None:
    pass


async def _finished() -> None:
    pass


async def call_soon(loop, count):
    """A callback that schedules the next one: one call_soon and one turn of the loop."""
    done = loop.create_future()
    left = count

    def step():
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done


async def call_later_cancel(loop, count):
    """A timer set and cancelled before it is due."""
    for number in range(count):
        loop.call_later(60, _nothing).cancel()
        if number % BURST == 0:
            await asyncio.sleep(0)


async def sleep_0(loop, count):
    """await asyncio.sleep(0)"""
    sleep = asyncio.sleep
    for _ in range(count):
        await sleep(0)


async def create_task(loop, count):
    """A task made and awaited."""
    for _ in range(count):
        await loop.create_task(_finished())


async def queue_ping_pong(loop, count):
    """There and back through two queues between two tasks."""
    there, back = asyncio.Queue(), asyncio.Queue()

    async def echo():
        for _ in range(count):
            await back.put(await there.get())

    task = loop.create_task(echo())
    for number in range(count):
        await there.put(number)
        await back.get()
    await task


async def future_round_trip(loop, count):
    """A future made, completed by a callback, awaited."""
    for _ in range(count):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future


async def gather_100(loop, count):
    """One task of a gather of 100."""
    for _ in range(count // GROUP):
        await asyncio.gather(*[_finished() for _ in range(GROUP)])


async def call_soon_threadsafe(loop, count):
    """A callback posted by another thread, in bursts of 1,000."""

    def post(done):
        for _ in range(BURST):
            loop.call_soon_threadsafe(_nothing)
        loop.call_soon_threadsafe(done.set)

    for _ in range(count // BURST):
        done = asyncio.Event()
        thread = threading.Thread(target=post, args=(done,))
        thread.start()
        await done.wait()
        thread.join()


async def run_in_executor(loop, count):
    """A function run in the default executor and awaited."""
    for _ in range(count):
        await loop.run_in_executor(None, _nothing)


async def call_soon_burst(loop, count):
    """A callback of 1,000 scheduled at once."""
    for _ in range(count // BURST):
        for _ in range(BURST):
            loop.call_soon(_nothing)
        await asyncio.sleep(0)


async def task_group_100(loop, count):
    """One task of a TaskGroup of 100."""
    for _ in range(count // GROUP):
        async with asyncio.TaskGroup() as group:
            for _ in range(GROUP):
                group.create_task(_finished())


async def timeout(loop, count):
    """asyncio.timeout entered and left."""
    for number in range(count):
        async with asyncio.timeout(60):
            pass
        if number % BURST == 0:
            await asyncio.sleep(0)


async def event(loop, count):
    """There and back between two tasks through two events."""
    there, back = asyncio.Event(), asyncio.Event()

    async def answer():
        for _ in range(count):
            await there.wait()
            there.clear()
            back.set()

    task = loop.create_task(answer())
    for _ in range(count):
        there.set()
        await back.wait()
        back.clear()
    await task


async def lock(loop, count):
    """A lock taken and given by one of two tasks that want it."""
    shared = asyncio.Lock()

    async def take():
        for _ in range(count // 2):
            async with shared:
                await asyncio.sleep(0)

    await asyncio.gather(take(), take())


async def semaphore(loop, count):
    """A place of two taken and given by one of four tasks that want it."""
    shared = asyncio.Semaphore(2)

    async def take():
        for _ in range(count // 4):
            async with shared:
                await asyncio.sleep(0)

    await asyncio.gather(take(), take(), take(), take())


async def sleep_1ms(loop, count):
    """How late asyncio.sleep(0.001) comes back."""
    for _ in range(count):
        await asyncio.sleep(SLEEP_NS / 1e9)


async def spawn(loop, count):
    """A child process started and waited for; the smallest there is."""
    program = shutil.which("true")
    for _ in range(count):
        child = await asyncio.create_subprocess_exec(program)
        if await child.wait() != 0:
            raise RuntimeError(f"{program} failed")


async def thread_ping_pong(loop, count):
    """There and back between the loop and another thread."""
    wake, done = threading.Event(), loop.create_future()

    def answer():
        for _ in range(count):
            wake.wait()
            wake.clear()
            loop.call_soon_threadsafe(step)

    left = count

    def step():
        nonlocal left
        left -= 1
        if left > 0:
            wake.set()
        else:
            done.set_result(None)

    thread = threading.Thread(target=answer)
    thread.start()
    wake.set()
    await done
    thread.join()


MAIN = (call_soon, call_later_cancel, sleep_0, create_task, queue_ping_pong, future_round_trip,
        gather_100, call_soon_threadsafe, run_in_executor)  # fmt: skip
MORE = (call_soon_burst, task_group_100, timeout, event, lock, semaphore, thread_ping_pong,
        sleep_1ms, spawn)  # fmt: skip
BY_NAME = {case.__name__: case for case in (*MAIN, *MORE)}
UNITS = {"sleep_1ms": 20, "spawn": 20}
"""Operations are counted in multiples of this; of BURST in the other cases."""
WAITS_NS = {"sleep_1ms": SLEEP_NS}
"""What an operation waits for by its own wish, which is not counted as time."""
