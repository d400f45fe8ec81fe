"""asyncio's locks and queues for use from several event loops and threads at once.

The same classes, methods and order of events as in asyncio, where each object belongs to one loop; here each waiting
coroutine is woken on its own loop. An object may be made anywhere, used from any loop, and released, set or notified
from any thread (also outside of a loop). Bookkeeping is done under one short lock per object, which is never held
across an await; a wake-up that reaches a coroutine which is being cancelled is passed on to the next.
"""

import asyncio
import collections
import threading
from asyncio import events, locks, queues

__all__ = ("Barrier", "BoundedSemaphore", "Condition", "Event", "LifoQueue", "Lock", "PriorityQueue", "Queue",
           "QueueShutDown", "Semaphore")

QueueShutDown = getattr(asyncio, "QueueShutDown", None)
if QueueShutDown is None:  # 3.11, 3.12
    class QueueShutDown(Exception):
        """Raised when putting on to or getting from a shut-down Queue."""


def _settle(future):
    if not future.done():
        future.set_result(None)


class _Waiter:
    """A coroutine that waits on its own loop. Everything but wait() under the lock of its primitive."""

    __slots__ = ("_future", "_is_lost", "_loop", "is_woken")

    def __init__(self):
        self._loop = events.get_running_loop()
        self._future = self._loop.create_future()
        self.is_woken = False
        self._is_lost = False  # its loop was closed

    def wait(self):
        return self._future

    def done(self):
        """Whether it was woken or gave up: it will not wait any longer."""
        return self.is_woken or self._is_lost or self._future.done()

    def cancelled(self):
        return self._is_lost or (not self.is_woken and self._future.cancelled())

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

    async def acquire(self):
        with self._mutex:
            if not self._locked and all(waiter.cancelled() for waiter in self._waiters):
                self._locked = True
                return True
            waiter = _Waiter()
            self._waiters.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            with self._mutex:
                self._waiters.remove(waiter)
                if not self._locked:
                    self._wake_up_first()
            raise
        with self._mutex:
            self._waiters.remove(waiter)
            self._locked = True
        return True

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
            waiter = _Waiter()
            self._waiters.append(waiter)
        try:
            await waiter.wait()
            return True
        finally:
            with self._mutex:
                self._waiters.remove(waiter)


class Condition(locks.Condition):
    """asyncio.Condition, across loops and threads. The lock, if one is given, must be a Lock of this module."""

    def __init__(self, lock=None):
        if lock is None:
            lock = Lock()
        elif isinstance(lock, locks.Lock) and not isinstance(lock, Lock):
            raise TypeError("a pyloop.sync.Condition needs a pyloop.sync.Lock, not asyncio's")
        self._lock = lock
        self.locked = lock.locked
        self.acquire = lock.acquire
        self.release = lock.release
        self._mutex = threading.RLock()
        self._waiters = collections.deque()

    async def wait(self):
        if not self.locked():
            raise RuntimeError("cannot wait on un-acquired lock")
        waiter = _Waiter()
        with self._mutex:
            self._waiters.append(waiter)
        self.release()
        try:
            try:
                try:
                    await waiter.wait()
                    return True
                finally:
                    with self._mutex:
                        self._waiters.remove(waiter)
            finally:
                await self._acquire_again()
        except BaseException:
            # It may have been notified before that: the next one is, instead. It can find nothing to do.
            self._notify(1)
            raise

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
            waiter = _Waiter()
            self._waiters.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            self._end_wait(waiter, gives_back=True)
            raise
        self._end_wait(waiter, gives_back=False)
        return True

    def _end_wait(self, waiter, gives_back):
        with self._mutex:
            self._waiters.remove(waiter)
            if gives_back and waiter.is_woken:
                self._value += 1  # which it was given and cannot use
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


class Barrier(locks.Barrier):
    """asyncio.Barrier, across loops and threads: asyncio's own, on a Condition of this module."""

    def __init__(self, parties):
        super().__init__(parties)
        self._cond = Condition()


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

    async def _wait_in(self, waiters, waiter, is_useful):
        """Wait to be woken; passes the wake-up on if it comes together with a cancellation."""
        try:
            await waiter.wait()
        except BaseException:
            with self._mutex:
                if waiter in waiters:
                    waiters.remove(waiter)
                if is_useful() and waiter.is_woken:
                    self._wakeup_next(waiters)
            raise

    async def put(self, item):
        while True:
            with self._mutex:
                if self._is_shutdown or not self.full():
                    return self.put_nowait(item)
                waiter = _Waiter()
                self._putters.append(waiter)
            await self._wait_in(self._putters, waiter, lambda: not self.full())

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
                waiter = _Waiter()
                self._getters.append(waiter)
            await self._wait_in(self._getters, waiter, lambda: not self.empty())

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
