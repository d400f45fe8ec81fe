"""asyncio's locks and queues for use from several event loops and threads at once.

The same classes, methods and order of events as in asyncio, where each object belongs to one loop; here each waiting
coroutine is woken on its own loop. An object may be made anywhere, used from any loop, and released, set or notified
from any thread (also outside of a loop). Bookkeeping is done under one short lock per object, which is never held
across an await; a wake-up that reaches a coroutine which is being cancelled is passed on to the next. So is one that a
loop has not got through to its coroutine when it is closed, by its close(): pyloop's calls give_up() of what waits on
it, and in loops of other kinds close() is replaced, on the instance, to do the same. A loop of a kind that does not
bear that keeps what it was given, and so does one that has stopped and is never closed.
"""

import asyncio
import collections
import threading
from asyncio import events, locks, queues

from ._loop import Loop

__all__ = ("Barrier", "BoundedSemaphore", "Condition", "Event", "LifoQueue", "Lock", "PriorityQueue", "Queue",
           "QueueShutDown", "Semaphore")

QueueShutDown = getattr(asyncio, "QueueShutDown", None)
if QueueShutDown is None:  # 3.11, 3.12
    class QueueShutDown(Exception):
        """Raised when putting on to or getting from a shut-down Queue."""


def _settle(future):
    if not future.done():
        future.set_result(None)


def _waits_of(loop):
    """What waits on the running loop, in order: the keys of a dict."""
    waits = getattr(loop, "_sync_waits", None)
    if waits is None:
        waits = {}
        try:
            loop._sync_waits = waits
            if not isinstance(loop, Loop):
                _give_up_at_close(loop, waits)
        except AttributeError:
            pass  # it takes no attributes: nobody is told of its close()
    return waits


def _give_up_at_close(loop, waits):
    close = loop.close

    def close_and_give_up():
        close()
        for wait in list(waits):
            wait.give_up()
    loop.close = close_and_give_up


class _Wait:
    """A coroutine that is in the middle of something, on the loop that runs, until leave() or give_up()."""

    __slots__ = ("_mutex", "_on_given_up", "_waits")

    def __init__(self, loop, mutex, on_given_up):
        self._mutex = mutex
        self._on_given_up = on_given_up
        self._waits = _waits_of(loop)
        self._waits[self] = None

    def leave(self):
        """The coroutine is through. False: it was given up before."""
        return self._waits.pop(self, self) is None

    def give_up(self):
        """It will not go on, because it is cancelled or its loop is closed: once, on_given_up(self) with the lock."""
        with self._mutex:
            if self.leave():
                self._on_given_up(self)


class _Waiter(_Wait):
    """A coroutine that waits on its own loop. Everything but wait() under the lock of its primitive.

    on_given_up(waiter) takes it out of the queue and gives to others what it was woken for.
    """

    __slots__ = ("_future", "_is_lost", "_loop", "is_woken")

    def __init__(self, mutex, on_given_up):
        self._loop = events.get_running_loop()
        self._future = self._loop.create_future()
        self.is_woken = False
        self._is_lost = False  # its loop was closed
        super().__init__(self._loop, mutex, on_given_up)

    async def wait(self):
        """Until it is woken; then leave() is due. It gives up by itself when it is cancelled."""
        try:
            await self._future
        except BaseException:
            self.give_up()
            raise

    def done(self):
        """Whether it was woken or gave up: it will not wait any longer."""
        return self.is_woken or self._is_lost or self._future.done()

    def cancelled(self):
        return self._is_lost or (not self.is_woken and self._future.cancelled())

    def is_abandoned(self):
        """Its loop was closed, so its coroutine will never run again."""
        return self._loop.is_closed()

    def wake(self):
        """False if its loop was closed: it will never run."""
        if events._get_running_loop() is self._loop:
            self._future.set_result(None)
        else:
            try:
                self._loop.call_soon_threadsafe(_settle, self._future)
            except RuntimeError:
                if not self._loop.is_closed():
                    raise
                self._is_lost = True
                return False
        self.is_woken = True
        return True


def _wake_first(waiters):
    """Wake the first that still waits."""
    for waiter in waiters:
        if not waiter.done() and waiter.wake():
            return True
    return False


class Lock(locks.Lock):
    """asyncio.Lock, across loops and threads."""

    def __init__(self):
        self._mutex = threading.RLock()
        self._waiters = collections.deque()
        self._locked = False
        self._abandoned = []  # for a Condition

    async def acquire(self):
        with self._mutex:
            if not self._locked and all(waiter.cancelled() for waiter in self._waiters):
                self._locked = True
                return True
            waiter = _Waiter(self._mutex, self._pass_on)
            self._waiters.append(waiter)
        await waiter.wait()
        with self._mutex:
            waiter.leave()
            self._waiters.remove(waiter)
            self._locked = True
        return True

    def _pass_on(self, waiter):
        self._waiters.remove(waiter)
        if not self._locked:
            self._wake_up_first()

    def release(self):
        with self._mutex:
            if not self._locked:
                raise RuntimeError("Lock is not acquired.")
            self._locked = False
            self._wake_up_first()

    def _wake_up_first(self):
        # Who was woken before and has not run yet is the next owner.
        if not any(waiter.is_woken for waiter in self._waiters):
            _wake_first(self._waiters)


class Event(locks.Event):
    """asyncio.Event, across loops and threads."""

    def __init__(self):
        self._mutex = threading.RLock()
        self._waiters = collections.deque()
        self._value = False

    def set(self):
        with self._mutex:
            if not self._value:
                self._value = True
                for waiter in self._waiters:
                    if not waiter.done():
                        waiter.wake()

    def clear(self):
        with self._mutex:
            self._value = False

    async def wait(self):
        with self._mutex:
            if self._value:
                return True
            waiter = _Waiter(self._mutex, self._waiters.remove)
            self._waiters.append(waiter)
        await waiter.wait()
        with self._mutex:
            waiter.leave()
            self._waiters.remove(waiter)
        return True


class Condition(locks.Condition):
    """asyncio.Condition, across loops and threads. The lock, if one is given, must be a Lock of this module."""

    def __init__(self, lock=None):
        if lock is None:
            lock = Lock()
        elif isinstance(lock, locks.Lock) and not isinstance(lock, Lock):
            raise TypeError("a pyloop.sync.Condition needs a pyloop.sync.Lock, not asyncio's")
        self._lock = lock
        # Tasks whose loop was closed. To collect them is to close their coroutines, whose `async with` then releases
        # the lock, whoever has it: so they are kept as long as it is.
        self._abandoned = lock._abandoned if isinstance(lock, Lock) else []
        self.locked = lock.locked
        self.acquire = lock.acquire
        self.release = lock.release
        self._mutex = threading.RLock()
        self._waiters = collections.deque()

    async def __aexit__(self, kind, error, traceback):
        if kind is not GeneratorExit or self.locked():  # else it was closed in wait(), and did not get the lock
            self.release()

    async def wait(self):
        if not self.locked():
            raise RuntimeError("cannot wait on un-acquired lock")
        task = asyncio.current_task()

        def pass_on(waiter):
            self._pass_on(waiter)
            if waiter.is_abandoned():
                self._abandoned.append(task)

        waiter = _Waiter(self._mutex, pass_on)
        with self._mutex:
            self._waiters.append(waiter)
        self.release()
        try:
            await self._wait_and_acquire(waiter)
        except BaseException:
            waiter.give_up()
            raise
        waiter.leave()
        return True

    async def _wait_and_acquire(self, waiter):
        try:
            await waiter.wait()
        except GeneratorExit:  # closed: it cannot wait
            if not self.locked():
                await self.acquire()
            raise
        except BaseException:
            await self._acquire_again()
            raise
        with self._mutex:
            self._waiters.remove(waiter)
        await self._acquire_again()

    def _pass_on(self, waiter):
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if waiter.is_woken:
            self._notify(1)  # the next one, who can find nothing to do

    async def _acquire_again(self):
        """The lock is held when wait() ends, however often it is cancelled."""
        error = None
        while True:
            try:
                await self.acquire()
                break
            except asyncio.CancelledError as cancelled:
                error = cancelled
        if error is not None:
            try:
                raise error
            finally:
                error = None  # no cycle through the traceback

    def _notify(self, n):
        with self._mutex:
            for waiter in self._waiters:
                if n <= 0:
                    break
                if not waiter.done() and waiter.wake():
                    n -= 1

    def notify(self, n=1):
        if not self.locked():
            raise RuntimeError("cannot notify on un-acquired lock")
        self._notify(n)


class Semaphore(locks.Semaphore):
    """asyncio.Semaphore, across loops and threads."""

    def __init__(self, value=1):
        if value < 0:
            raise ValueError("Semaphore initial value must be >= 0")
        self._mutex = threading.RLock()
        self._waiters = collections.deque()
        self._value = value

    def locked(self):
        with self._mutex:
            return self._value == 0 or any(not waiter.cancelled() for waiter in self._waiters)

    async def acquire(self):
        with self._mutex:
            if not self.locked():
                self._value -= 1
                return True
            waiter = _Waiter(self._mutex, self._pass_on)
            self._waiters.append(waiter)
        await waiter.wait()
        with self._mutex:
            waiter.leave()
            self._end_wait(waiter)
        return True

    def _pass_on(self, waiter):
        if waiter.is_woken:
            self._value += 1  # which it was given and cannot use
        self._end_wait(waiter)

    def _end_wait(self, waiter):
        self._waiters.remove(waiter)
        # Others may have come who waited only for their turn.
        while self._value > 0 and self._wake_up_next():
            pass

    def release(self):
        with self._mutex:
            self._value += 1
            self._wake_up_next()

    def _wake_up_next(self):
        if not _wake_first(self._waiters):
            return False
        self._value -= 1
        return True


class BoundedSemaphore(Semaphore, locks.BoundedSemaphore):
    """asyncio.BoundedSemaphore, across loops and threads."""

    def __init__(self, value=1):
        super().__init__(value)
        self._bound_value = value

    def release(self):
        with self._mutex:
            if self._value >= self._bound_value:
                raise ValueError("BoundedSemaphore released too many times")
            super().release()


class _BarrierLock(Lock):
    """A Lock that calls a function before each release."""

    def __init__(self, before_release):
        super().__init__()
        self._before_release = before_release

    def release(self):
        with self._mutex:
            self._before_release()
            super().release()


class Barrier(locks.Barrier):
    """asyncio.Barrier, across loops and threads: asyncio's own, on a Condition of this module.

    A party whose loop is closed leaves as one that is cancelled: at once if the lock of the condition is free, else
    before its next release.
    """

    def __init__(self, parties):
        super().__init__(parties)
        self._lock = _BarrierLock(self._uncount)
        self._cond = Condition(self._lock)
        self._given_up = 0  # parties that are still counted; guarded by the mutex of the lock

    async def wait(self):
        async with self._cond:
            await self._block()
            party = _Wait(events.get_running_loop(), self._lock._mutex, self._give_up)
            try:
                index = self._count
                self._count += 1
                if index + 1 == self._parties:
                    await self._release()
                else:
                    await self._wait()
                return index
            finally:
                if party.leave():
                    self._count -= 1
                    self._exit()

    def _give_up(self, party):
        self._given_up += 1
        if not self._lock._locked:
            self._lock._locked = True  # and whoever was woken to have it has it afterwards
            self._lock.release()

    def _uncount(self):
        while self._given_up > 0:
            self._given_up -= 1
            self._count -= 1
            self._exit()


class Queue(queues.Queue):
    """asyncio.Queue, across loops and threads, with the shutdown() of Python 3.13 on every version."""

    def __init__(self, maxsize=0):
        self._mutex = threading.RLock()
        self._maxsize = maxsize
        self._getters = collections.deque()
        self._putters = collections.deque()
        self._unfinished_tasks = 0
        self._finished = Event()
        self._finished.set()
        self._is_shutdown = False
        self._init(maxsize)

    def _wakeup_next(self, waiters):
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done() and waiter.wake():
                break

    def _wait_in(self, waiters, is_useful):
        """A waiter of a new wait to be woken, whose wake-up is passed on if it cannot use it. With the lock."""
        def pass_on(waiter):
            if waiter in waiters:
                waiters.remove(waiter)
            if is_useful() and waiter.is_woken:
                self._wakeup_next(waiters)

        waiter = _Waiter(self._mutex, pass_on)
        waiters.append(waiter)
        return waiter

    async def put(self, item):
        while True:
            with self._mutex:
                if self._is_shutdown or not self.full():
                    return self.put_nowait(item)
                waiter = self._wait_in(self._putters, lambda: not self.full())
            await waiter.wait()
            waiter.leave()

    def put_nowait(self, item):
        with self._mutex:
            if self._is_shutdown:
                raise QueueShutDown
            if self.full():
                raise asyncio.QueueFull
            self._put(item)
            self._unfinished_tasks += 1
            self._finished.clear()
            self._wakeup_next(self._getters)

    async def get(self):
        while True:
            with self._mutex:
                if self._is_shutdown or not self.empty():
                    return self.get_nowait()
                waiter = self._wait_in(self._getters, lambda: not self.empty())
            await waiter.wait()
            waiter.leave()

    def get_nowait(self):
        with self._mutex:
            if self.empty():
                raise QueueShutDown if self._is_shutdown else asyncio.QueueEmpty
            item = self._get()
            self._wakeup_next(self._putters)
            return item

    def task_done(self):
        with self._mutex:
            super().task_done()

    def shutdown(self, immediate=False):
        """Make put() raise QueueShutDown, and get() as soon as the queue is empty, or at once if `immediate`."""
        with self._mutex:
            self._is_shutdown = True
            if immediate:
                while not self.empty():
                    self._get()
                    if self._unfinished_tasks > 0:
                        self._unfinished_tasks -= 1
                if self._unfinished_tasks == 0:
                    self._finished.set()
            for waiters in (self._getters, self._putters):
                while waiters:
                    self._wakeup_next(waiters)


class PriorityQueue(Queue, queues.PriorityQueue):
    """asyncio.PriorityQueue, across loops and threads."""


class LifoQueue(Queue, queues.LifoQueue):
    """asyncio.LifoQueue, across loops and threads."""


def _install():
    """Put them under asyncio's names, for code that looks them up from now on."""
    for name in __all__:
        for module in (asyncio, locks, queues):
            if hasattr(module, name):
                setattr(module, name, globals()[name])
