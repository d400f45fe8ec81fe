"""pyloop.sync: asyncio's locks and queues, shared by event loops in several threads.

That they behave as asyncio's on one loop is shown by CPython's own test_locks and test_queues (run_tasks.py).
"""

import asyncio
import random
import subprocess
import sys
import threading

import pytest

import pyloop
from pyloop import sync

THREADS = 4
TIMEOUT = 60


def in_threads(backend, *mains):
    """Runs each coroutine function on a loop and a thread of its own; raises what one of them raised."""
    errors = []

    def target(main):
        try:
            with asyncio.Runner(loop_factory=lambda: pyloop.Loop(backend=backend)) as runner:
                runner.run(asyncio.wait_for(main(), TIMEOUT))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target, args=(main,)) for main in mains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


async def perhaps_cancelled(chance, coroutine):
    """Awaits it in a task that is cancelled now and then, at any moment. True if it was not."""
    task = asyncio.ensure_future(coroutine)
    if chance.random() < 0.5:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_lock_excludes_and_loses_no_wakeup(backend, seed):
    lock = sync.Lock()
    inside = []
    total = []

    async def enter():
        async with lock:
            inside.append(1)
            assert len(inside) == 1
            try:
                await asyncio.sleep(0)
            finally:
                assert len(inside) == 1
                inside.pop()
            total.append(1)

    def worker(number):
        chance = random.Random(seed * 100 + number)

        async def main():
            for _ in range(40):
                await asyncio.gather(*[perhaps_cancelled(chance, enter()) for _ in range(5)])
                await enter()
        return main
    in_threads(backend, *map(worker, range(THREADS)))
    assert not lock.locked() and not lock._waiters
    assert len(total) >= 40 * THREADS


def test_lock_is_fair(backend):
    """Those who wait get it in the order in which they came, whichever loop they are on."""
    lock = sync.Lock()
    order = []
    queued = [threading.Event() for _ in range(THREADS + 1)]
    queued[0].set()

    def worker(number):
        async def main():
            queued[number].wait(TIMEOUT)
            acquiring = asyncio.ensure_future(lock.acquire())
            await asyncio.sleep(0)
            assert not acquiring.done()
            queued[number + 1].set()
            await acquiring
            order.append(number)
            lock.release()
        return main

    async def owner():
        await lock.acquire()
        started.set()
        await asyncio.get_running_loop().run_in_executor(None, queued[THREADS].wait, TIMEOUT)
        lock.release()

    started = threading.Event()
    first = threading.Thread(target=in_threads, args=(backend, owner))
    first.start()
    started.wait(TIMEOUT)
    in_threads(backend, *map(worker, range(THREADS)))
    first.join()
    assert order == list(range(THREADS))


@pytest.mark.parametrize("seed", range(3))
def test_semaphore_never_lets_too_many_in(backend, seed):
    semaphore = sync.BoundedSemaphore(3)
    inside = []

    async def enter():
        async with semaphore:
            inside.append(1)
            assert len(inside) <= 3
            try:
                await asyncio.sleep(0)
            finally:
                inside.pop()

    def worker(number):
        chance = random.Random(seed * 100 + number)

        async def main():
            for _ in range(30):
                await asyncio.gather(*[perhaps_cancelled(chance, enter()) for _ in range(8)])
        return main
    in_threads(backend, *map(worker, range(THREADS)))
    assert semaphore._value == 3 and not semaphore._waiters
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [sync.Queue, sync.PriorityQueue, sync.LifoQueue])
def test_queue_delivers_each_item_once(backend, kind, seed):
    queue = kind(maxsize=3)
    got = [[] for _ in range(THREADS)]
    count = 300

    async def get_one(items):
        items.append(await queue.get())
        queue.task_done()

    def producer(number):
        async def main():
            for i in range(count):
                await queue.put(number * count + i)
            if number == 0:
                await queue.join()
        return main

    def consumer(number):
        chance = random.Random(seed * 100 + number)

        async def main():
            while True:
                try:
                    await perhaps_cancelled(chance, get_one(got[number]))
                except sync.QueueShutDown:
                    return
        return main

    async def closer():
        while sum(map(len, got)) < 2 * count:
            await asyncio.sleep(0.001)  # tidy: sleep to look again later, nothing is assumed of its length
        queue.shutdown()

    in_threads(backend, producer(0), producer(1), *map(consumer, range(THREADS)), closer)
    assert sorted(item for items in got for item in items) == list(range(2 * count))


def test_event_set_by_a_plain_thread(backend):
    event = sync.Event()
    waiting = threading.Semaphore(0)

    async def wait():
        waiter = asyncio.ensure_future(event.wait())
        await asyncio.sleep(0)
        waiting.release()
        assert await waiter is True

    def setter():
        for _ in range(THREADS):
            assert waiting.acquire(timeout=TIMEOUT)
        event.set()

    thread = threading.Thread(target=setter)
    thread.start()
    in_threads(backend, *[wait] * THREADS)
    thread.join()
    event.clear()
    assert not event.is_set()


def test_condition_across_loops(backend):
    condition = sync.Condition()
    items = []
    taken = []

    async def consume():
        for _ in range(50):
            async with condition:
                await condition.wait_for(lambda: items)
                taken.append(items.pop())

    async def produce():
        for i in range(50 * THREADS):
            async with condition:
                items.append(i)
                condition.notify()

    in_threads(backend, produce, *[consume] * THREADS)
    assert sorted(taken) == list(range(50 * THREADS))
    with pytest.raises(TypeError, match="needs a pyloop.sync.Lock"):
        sync.Condition(asyncio.Lock())


def test_barrier_across_loops(backend):
    barrier = sync.Barrier(THREADS)
    rounds = []

    async def main():
        for i in range(20):
            index = await barrier.wait()
            rounds.append((i, index))
    in_threads(backend, *[main] * THREADS)
    assert sorted(rounds) == [(i, n) for i in range(20) for n in range(THREADS)]
    assert [i for i, _ in rounds] == sorted(i for i, _ in rounds)


def test_loop_that_was_closed_is_passed_over(new_loop):
    """A waiter whose loop is gone must not swallow the wake-up."""
    lock = sync.Lock()
    gone, loop = new_loop(), new_loop()
    loop.run_until_complete(lock.acquire())
    abandoned = gone.create_task(lock.acquire())
    gone.run_until_complete(asyncio.sleep(0))
    gone.close()

    async def main():
        waiting = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0)
        lock.release()
        assert await asyncio.wait_for(waiting, TIMEOUT)
    loop.run_until_complete(main())
    abandoned._log_destroy_pending = False


def test_are_asyncio_s_classes(run):
    for name in sync.__all__:
        ours, theirs = getattr(sync, name), getattr(asyncio, name, None)
        assert theirs is None or issubclass(ours, theirs)

    async def main():
        queue = sync.Queue()
        queue.put_nowait(1)
        queue.shutdown(immediate=True)
        for call in (queue.get, lambda: queue.put(1)):
            with pytest.raises(sync.QueueShutDown):
                await call()
    run(main())


def test_install():
    program = """
import asyncio, warnings
warnings.simplefilter("ignore")
import pyloop
pyloop.install(sync=True)
assert asyncio.Lock is asyncio.locks.Lock is pyloop.sync.Lock
assert asyncio.Queue is asyncio.queues.Queue is pyloop.sync.Queue
assert asyncio.open_connection is pyloop.open_connection
lock = asyncio.Lock()
async def main():
    async with lock:
        pass
asyncio.run(main())
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stderr) == (0, "")
