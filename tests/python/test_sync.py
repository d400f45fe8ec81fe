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


def in_turn(backend, wait, hand_on):
    """The order in which coroutines on several loops, which began to wait one after the other, are served.

    `wait()` waits; each call of `hand_on()`, on a loop of its own, lets one of them through, and then no other before
    that one has noted itself.
    """
    order = []
    queued = [threading.Event() for _ in range(THREADS + 1)]
    queued[0].set()
    served = threading.Semaphore(0)

    def worker(number):
        async def main():
            queued[number].wait(TIMEOUT)
            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            assert not waiting.done()
            queued[number + 1].set()
            await waiting
            order.append(number)
            served.release()
        return main

    async def owner():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, queued[THREADS].wait, TIMEOUT)
        for _ in range(THREADS):
            await hand_on()
            assert await loop.run_in_executor(None, served.acquire, True, TIMEOUT)

    in_threads(backend, owner, *map(worker, range(THREADS)))
    return order


@pytest.mark.parametrize("kind", [sync.Lock, sync.Semaphore, sync.BoundedSemaphore])
def test_locks_are_fair(backend, kind):
    """Those who wait get it in the order in which they came, whichever loop they are on."""
    lock = kind()
    asyncio.run(lock.acquire())

    async def release():
        lock.release()
    assert in_turn(backend, lock.acquire, release) == list(range(THREADS))
    assert lock.locked() and not lock._waiters


def test_queue_is_fair(backend):
    queue = sync.Queue(maxsize=1)

    async def put():
        await queue.put(None)
    assert in_turn(backend, queue.get, put) == list(range(THREADS))
    queue.put_nowait(None)
    assert in_turn(backend, put, queue.get) == list(range(THREADS))
    assert queue.full() and not queue._getters and not queue._putters


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


@pytest.mark.parametrize("seed", range(3))
def test_condition_with_cancelled_waiters(backend, seed):
    """Each item is taken once, and the lock is free again, whenever those who wait for it are cancelled."""
    condition = sync.Condition()
    items, taken = [], []
    count = 200
    is_closed = False

    async def take():
        async with condition:
            await condition.wait_for(lambda: items or is_closed)
            assert condition.locked()
            if items:
                taken.append(items.pop())

    def consumer(number):
        chance = random.Random(seed * 100 + number)

        async def main():
            while not is_closed:
                await asyncio.gather(*[perhaps_cancelled(chance, take()) for _ in range(3)])
        return main

    async def produce():
        nonlocal is_closed
        for i in range(count):
            async with condition:
                items.append(i)
                condition.notify()
        while len(taken) < count:
            await asyncio.sleep(0.001)  # tidy: sleep to look again later, nothing is assumed of its length
        async with condition:
            is_closed = True
            condition.notify_all()

    in_threads(backend, produce, *map(consumer, range(THREADS)))
    assert sorted(taken) == list(range(count))
    assert not condition.locked() and not condition._waiters and not condition._lock._waiters


@pytest.mark.parametrize("seed", range(3))
def test_event_with_cancelled_waiters(backend, seed):
    event = sync.Event()
    left = THREADS

    def waiter(number):
        chance = random.Random(seed * 100 + number)

        async def main():
            nonlocal left
            passed = 0
            while passed < 100:
                passed += sum(await asyncio.gather(*[perhaps_cancelled(chance, event.wait()) for _ in range(5)]))
            with guard:
                left -= 1
        return main

    async def switch():
        while left > 0:
            event.set()
            await asyncio.sleep(0)
            event.clear()
            await asyncio.sleep(0)

    guard = threading.Lock()
    in_threads(backend, switch, *map(waiter, range(THREADS)))
    assert not event._waiters and not event.is_set()


@pytest.mark.parametrize("seed", range(3))
def test_barrier_with_cancelled_waiters(backend, seed):
    """Who is cancelled before the barrier is full does not count; the others pass in each round."""
    barrier = sync.Barrier(THREADS)
    begun, filled = threading.Barrier(THREADS, timeout=TIMEOUT), threading.Barrier(THREADS, timeout=TIMEOUT)
    passed = []

    def party(number):
        chance = random.Random(seed * 100 + number)

        async def main():
            for i in range(20):
                if number > 0:  # so that those who give up are never enough
                    task = asyncio.ensure_future(barrier.wait())
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                begun.wait()
                passed.append((i, await barrier.wait()))
                filled.wait()
        return main

    in_threads(backend, *map(party, range(THREADS)))
    assert sorted(passed) == [(i, index) for i in range(20) for index in range(THREADS)]
    assert barrier.n_waiting == 0 and not barrier.broken and not barrier._cond._waiters


def woken_and_cancelled(backend, wait, wake):
    """One that waits is woken by another loop and cancelled by its own, in this order, before it can run.

    What it was woken for is for the next one, which waits on a third loop: this returns when that one got it.
    """
    waits = [threading.Event(), threading.Event()]
    woken = threading.Event()

    async def first():
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        assert not task.done()
        waits[0].set()
        assert woken.wait(TIMEOUT)  # this loop stands still
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def second():
        assert waits[0].wait(TIMEOUT)
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        assert not task.done()
        waits[1].set()
        await task

    async def waker():
        assert waits[1].wait(TIMEOUT)
        await wake()
        woken.set()

    in_threads(backend, first, second, waker)


def test_wakeup_of_a_cancelled_waiter_is_passed_on(backend):
    lock, semaphore, condition = sync.Lock(), sync.Semaphore(0), sync.Condition()
    queue, full = sync.Queue(), sync.Queue(maxsize=1)
    asyncio.run(lock.acquire())
    full.put_nowait(None)

    async def wait_for_condition():
        async with condition:
            await condition.wait()

    async def notify():
        async with condition:
            condition.notify()

    def soon(function, *args):
        async def call():
            return function(*args)
        return call

    woken_and_cancelled(backend, lock.acquire, soon(lock.release))
    woken_and_cancelled(backend, semaphore.acquire, soon(semaphore.release))
    woken_and_cancelled(backend, wait_for_condition, notify)
    woken_and_cancelled(backend, queue.get, soon(queue.put_nowait, None))
    woken_and_cancelled(backend, lambda: full.put(None), soon(full.get_nowait))
    assert lock.locked() and semaphore._value == 0 and not condition.locked() and queue.empty() and full.full()
    for left in (lock._waiters, semaphore._waiters, condition._waiters, queue._getters, full._putters):
        assert not left


def test_cancelled_waiters_hold_up_nobody(backend):
    """Woken and cancelled where all are woken: the others pass, and the next round is a whole one."""
    event, barrier = sync.Event(), sync.Barrier(3)

    async def set_event():
        event.set()

    woken_and_cancelled(backend, event.wait, set_event)
    assert event.is_set() and not event._waiters
    woken_and_cancelled(backend, barrier.wait, barrier.wait)
    assert barrier.n_waiting == 0 and not barrier.broken
    in_threads(backend, *[barrier.wait] * 3)


def test_condition_cancelled_while_it_waits_for_its_lock(backend):
    """wait() ends with the lock, though another loop had it when the waiter was cancelled."""
    condition = sync.Condition()
    waits, cancelled = threading.Event(), threading.Event()
    has_left = False

    async def wait():
        async with condition:
            try:
                await condition.wait()
            finally:
                assert has_left and condition.locked()

    async def waiter():
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waits.set()
        while not condition._lock._waiters:
            await asyncio.sleep(0.001)  # tidy: sleep to look again later, nothing is assumed of its length
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not task.done()
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def holder():
        nonlocal has_left
        assert waits.wait(TIMEOUT)
        async with condition:
            condition.notify()
            assert cancelled.wait(TIMEOUT)
            has_left = True

    in_threads(backend, waiter, holder)
    assert not condition.locked() and not condition._waiters and not condition._lock._waiters


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
