"""pyloop.sync: what a coroutine was woken for goes to the next one if its loop is closed before it could go on."""

import asyncio
import gc
import random
import threading
import time
import weakref

import pytest

import pyloop
from pyloop import sync

TIMEOUT = 60
THREADS = 3

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(params=["ours", "asyncio"])
def gone(request, backend):
    """The loop that will be closed."""
    loop = pyloop.Loop(backend=backend) if request.param == "ours" else asyncio.SelectorEventLoop()
    yield loop
    loop.close()


def one_turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def some_turns(loop):
    for _ in range(4):
        one_turn(loop)


async def notify(condition):
    async with condition:
        condition.notify()


class Case:
    """wait() waits on a loop and takes what wake() gives, which is enough for one."""

    def __init__(self, kind):
        self.object = getattr(sync, {"put": "Queue"}.get(kind, kind))(**{"put": {"maxsize": 1}}.get(kind, {}))
        self.queue = None
        if kind == "put":
            self.object.put_nowait(0)
            self.wait, self.wake = lambda: self.object.put(1), self.object.get_nowait
            self.queue = self.object._putters
        elif kind.endswith("Queue"):
            self.wait, self.wake = self.object.get, lambda: self.object.put_nowait(1)
            self.queue = self.object._getters
        elif kind == "Condition":
            self.wait, self.wake = self._wait_for_condition, self._notify
        else:
            asyncio.run(self.object.acquire())
            self.wait, self.wake = self.object.acquire, self.object.release

    async def _wait_for_condition(self):
        async with self.object:
            await self.object.wait()

    def _notify(self):
        asyncio.run(notify(self.object))

    def left(self):
        return list(self.queue if self.queue is not None else self.object._waiters)


KINDS = ["Lock", "Semaphore", "BoundedSemaphore", "Condition", "Queue", "LifoQueue", "put"]


def start(loop, coroutine):
    task = loop.create_task(coroutine)
    task._log_destroy_pending = False
    some_turns(loop)
    assert not task.done()
    return task


@pytest.mark.parametrize("stage", ["posted", "settled"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wake_up_of_a_closed_loop_is_passed_on(new_loop, gone, kind, stage):
    """Whether it is still queued in that loop or has completed the future that the coroutine waits for."""
    loop = new_loop()
    case = Case(kind)
    abandoned = start(gone, case.wait())
    first, second = start(loop, case.wait()), start(loop, case.wait())
    case.wake()
    if stage == "settled":
        one_turn(gone)
        assert not abandoned.done()
    some_turns(loop)
    assert not first.done()  # it is the other one's turn
    gone.close()
    loop.run_until_complete(asyncio.wait_for(first, TIMEOUT))
    some_turns(loop)
    assert not second.done()
    assert len(case.left()) == 1
    case.wake()
    loop.run_until_complete(asyncio.wait_for(second, TIMEOUT))
    assert not case.left() and not abandoned.done()


@pytest.mark.parametrize("kind", KINDS)
def test_a_coroutine_of_a_closed_loop_waits_for_nothing(new_loop, gone, kind):
    """One that was not woken leaves nothing behind, and nothing is given to it later."""
    loop = new_loop()
    case = Case(kind)
    abandoned = start(gone, case.wait())
    gone.close()
    assert not case.left()
    waiting = start(loop, case.wait())
    case.wake()
    loop.run_until_complete(asyncio.wait_for(waiting, TIMEOUT))
    assert not abandoned.done() and not case.left()
    del abandoned
    gc.collect()
    assert not case.left()


def test_several_coroutines_of_a_closed_loop_were_woken(new_loop, gone):
    """What all of them were given goes to others, in the order in which those came."""
    loop = new_loop()
    semaphore = sync.Semaphore(0)
    for _ in range(3):
        start(gone, semaphore.acquire())
    order = []

    async def acquire(number):
        await semaphore.acquire()
        order.append(number)

    waiting = [start(loop, acquire(number)) for number in range(4)]
    for _ in range(3):
        semaphore.release()
    some_turns(loop)
    assert not order
    gone.close()
    loop.run_until_complete(asyncio.wait_for(asyncio.gather(*waiting[:3]), TIMEOUT))
    some_turns(loop)
    assert order == [0, 1, 2] and not waiting[3].done()
    semaphore.release()
    loop.run_until_complete(asyncio.wait_for(waiting[3], TIMEOUT))
    assert semaphore._value == 0 and not semaphore._waiters


def test_the_next_one_s_loop_is_closed_too(new_loop, gone):
    loop, other = new_loop(), new_loop()
    lock = sync.Lock()
    asyncio.run(lock.acquire())
    for one in (gone, other, gone):
        start(one, lock.acquire())
    waiting = start(loop, lock.acquire())
    lock.release()
    gone.close()
    assert len(lock._waiters) == 2
    other.close()
    loop.run_until_complete(asyncio.wait_for(waiting, TIMEOUT))
    assert lock.locked() and not lock._waiters


def test_notified_and_closed_while_it_waits_for_the_lock(new_loop, gone):
    loop = new_loop()
    condition = sync.Condition()

    async def wait():
        async with condition:
            await condition.wait()

    abandoned = start(gone, wait())
    waiting = start(loop, wait())
    loop.run_until_complete(condition.acquire())
    condition.notify()
    some_turns(gone)  # it waits for the lock now
    assert len(condition._lock._waiters) == 1
    gone.close()
    assert not condition._lock._waiters
    condition.release()
    loop.run_until_complete(asyncio.wait_for(waiting, TIMEOUT))
    assert not abandoned.done() and not condition.locked() and not condition._waiters


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize("is_notified", [False, True])
def test_an_abandoned_coroutine_does_not_release_the_lock_of_another(new_loop, gone, is_notified, is_running):
    """One that waited for a condition would do that if it were collected, at the end of its `async with`."""
    loop = new_loop()
    condition = sync.Condition()

    async def wait():
        async with condition:
            await condition.wait()

    abandoned = weakref.ref(start(gone, wait()))
    if is_notified:
        loop.run_until_complete(notify(condition))
        one_turn(gone)
    gone.close()

    async def collect():
        gc.collect()

    loop.run_until_complete(condition.acquire())
    if is_running:
        loop.run_until_complete(collect())
    else:
        gc.collect()
    assert condition.locked() and not condition._waiters and not condition._lock._waiters
    condition.release()
    del condition, wait
    gc.collect()
    assert abandoned() is None


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("is_full", [False, True])
def test_barrier_with_a_closed_loop(new_loop, gone, is_full, is_held):
    """A party whose loop is closed leaves it, before the barrier is full or on its way out."""
    loop = new_loop()
    barrier = sync.Barrier(2)
    start(gone, barrier.wait())
    if is_full:
        assert loop.run_until_complete(barrier.wait()) == 1
        blocked = start(loop, barrier.wait())
    if is_held:
        loop.run_until_complete(barrier._cond.acquire())
    gone.close()
    if is_held:
        barrier._cond.release()
    if not is_full:
        blocked = start(loop, barrier.wait())
    assert barrier.n_waiting == 1 if not is_full else True

    async def meet():
        return sorted(await asyncio.wait_for(asyncio.gather(blocked, barrier.wait()), TIMEOUT))
    assert loop.run_until_complete(meet()) == [0, 1]
    assert barrier.n_waiting == 0 and not barrier.broken and not barrier._cond._waiters


def test_event_with_a_closed_loop(new_loop, gone):
    event = sync.Event()
    loop = new_loop()
    start(gone, event.wait())
    waiting = start(loop, event.wait())
    event.set()
    gone.close()
    assert loop.run_until_complete(asyncio.wait_for(waiting, TIMEOUT))
    assert not event._waiters


def test_a_loop_that_takes_no_attributes(new_loop):
    """Only what has not been posted to it can be passed on."""
    class Sealed(asyncio.SelectorEventLoop):
        def __setattr__(self, name, value):
            if name in ("_sync_waits", "close"):
                raise AttributeError(name)
            super().__setattr__(name, value)

    sealed, loop = Sealed(), new_loop()
    lock = sync.Lock()
    asyncio.run(lock.acquire())
    start(sealed, lock.acquire())
    waiting = start(loop, lock.acquire())
    sealed.close()
    lock.release()
    loop.run_until_complete(asyncio.wait_for(waiting, TIMEOUT))


def test_parallel_views_are_closed(backend, new_loop):
    """The coroutine waits in a view that has a thread of its own, whose loop is closed there."""
    lock, loop = sync.Lock(), new_loop()
    asyncio.run(lock.acquire())
    gone = pyloop.Loop(backend=backend, parallel=True, workers=2)
    is_there, leaving = threading.Event(), threading.Event()

    async def stay():
        """Keeps the thread of the view until the loop is being closed, so that the wake-up is queued behind it."""
        is_there.set()
        assert leaving.wait(TIMEOUT)

    async def enter():
        await lock.acquire()
        lock.release()  # it was quicker than the end

    async def main():
        view = gone._other_views[0]
        asyncio.run_coroutine_threadsafe(enter(), view)
        while not lock._waiters:
            await asyncio.sleep(0.001)  # tidy: sleep to look again later, nothing is assumed of its length
        asyncio.run_coroutine_threadsafe(stay(), view)
        assert is_there.wait(TIMEOUT)

    def leave():
        while not gone.is_closed():
            time.sleep(0.001)  # tidy: sleep because nothing tells that the loop is closed
        leaving.set()

    gone.run_until_complete(main())
    waiting = start(loop, lock.acquire())
    lock.release()
    leaver = threading.Thread(target=leave)
    leaver.start()
    gone.close()
    leaver.join()
    loop.run_until_complete(asyncio.wait_for(waiting, TIMEOUT))
    assert lock.locked() and not lock._waiters


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of those who waited for a condition
@pytest.mark.parametrize("seed", range(3))
def test_loops_are_closed_at_any_moment(backend, seed):
    """Threads close loops with coroutines that wait for each thing; nobody else waits longer for it."""
    lock, semaphore, condition, queue = sync.Lock(), sync.Semaphore(2), sync.Condition(), sync.Queue(maxsize=2)
    count = 40
    errors, left = [], [THREADS]

    async def enter(thing):
        await thing.acquire()
        thing.release()

    async def wait():
        async with condition:
            await condition.wait()

    async def get():
        await queue.get()

    def closer(number):
        chance = random.Random(seed * 100 + number)
        for _ in range(count):
            loop = pyloop.Loop(backend=backend) if chance.random() < 0.5 else asyncio.SelectorEventLoop()
            for make in (lambda: enter(lock), lambda: enter(semaphore), wait, get, lambda: queue.put(1)):
                loop.create_task(make())._log_destroy_pending = False
            for _ in range(chance.randrange(1, 6)):
                one_turn(loop)
            loop.close()

    def target(number):
        try:
            closer(number)
        except BaseException as error:
            errors.append(error)
        finally:
            left[0] -= 1

    async def main():
        rounds = 0
        while left[0] > 0 or rounds < count:
            waiting = asyncio.ensure_future(wait())
            await asyncio.gather(enter(lock), enter(semaphore), queue.put(rounds), get())
            while not waiting.done():
                async with condition:
                    condition.notify()
                await asyncio.sleep(0)
            rounds += 1

    threads = [threading.Thread(target=target, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    with asyncio.Runner(loop_factory=lambda: pyloop.Loop(backend=backend)) as runner:
        runner.run(asyncio.wait_for(main(), TIMEOUT))
    for thread in threads:
        thread.join()
    assert not errors
    assert not lock.locked() and not lock._waiters and semaphore._value == 2 and not condition.locked()
    assert not condition._waiters and not queue._getters
