"""pyloop.Loop: the C loop under asyncio's BaseEventLoop."""

import asyncio
import itertools
import os
import sys
import threading
import weakref
from asyncio import events, tasks

from . import _core, _parallel
from ._executor import DefaultExecutor
from ._names import NamesMixin
from ._seconds import seconds_option
from ._sock import SockMixin
from ._transports import TransportsMixin
from ._unix import UnixMixin, forget_wakeup_fd
from ._watchdog import Watchdog, check_limit


known_loops = {}
"""Weak references to the loops of the process, closed or not, by number, without the views of other threads. Each
operation on it is atomic: a loop may die in any thread."""
_numbers = itertools.count(1)


def _register(loop):
    number = next(_numbers)
    known = known_loops  # when the interpreter ends the module may be gone before the loop
    known[number] = weakref.ref(loop, lambda _: known.pop(number, None))


def check_switch_interval(interval):
    """Seconds or None, of the option or else of PYLOOP_SWITCH_INTERVAL. TypeError or ValueError."""
    return seconds_option("switch_interval", interval, 1e-6)


def _checkpoint():
    """Called by a loop that does not wait: where a function begins, the interpreter gives the GIL to a thread that has
    asked for it."""


class Loop(_core.LoopCore, NamesMixin, SockMixin, TransportsMixin, UnixMixin, asyncio.BaseEventLoop):
    """An asyncio event loop whose hot parts are C.

    backend: "io_uring", "epoll" or "kqueue"; "auto" or None picks the best that works here. RuntimeError tells why
    one that was asked for does not. The environment variable PYLOOP_BACKEND decides for "auto".
    native_tasks: False makes create_task() and create_future() return asyncio's own types.
    parallel: pyloop.spawn() places coroutines on several threads, of which each has a loop of its own, a view of this
    one. workers: how many, this one included; None means one per processor.
    watchdog: seconds after which a callback that still runs is reported, with its stack, by the logger
    "pyloop.watchdog"; None leaves it to the environment variable PYLOOP_WATCHDOG.
    switch_interval: seconds for sys.setswitchinterval() while the loop runs: beside a thread that computes, the loop
    waits that long for the GIL. None leaves it to the environment variable PYLOOP_SWITCH_INTERVAL.
    """

    _switch_interval = None
    _old_switch_interval = None
    _first_view = None  # in parallel mode the loop that the program made
    _watchdog = None
    _sync_waits = None  # what waits on this loop for objects of pyloop.sync

    def __init__(self, *, backend=None, native_tasks=True, parallel=False, workers=None, watchdog=None,
                 switch_interval=None):
        watchdog_limit = check_limit(watchdog)
        self._switch_interval = check_switch_interval(switch_interval)
        _core.LoopCore.__init__(self, backend=backend, native_tasks=native_tasks,
                                workers=_parallel.check_options(parallel, workers))
        asyncio.BaseEventLoop.__init__(self)
        self._init_unix()
        self._other_views = ()
        if parallel:
            self._first_view = self
            # Now, because two views could make one each.
            self._default_executor = DefaultExecutor()
            self._other_views = _parallel.open_views(self, View)
        if watchdog_limit is not None:
            self._watchdog = Watchdog((self, *self._other_views), watchdog_limit)
        _register(self)

    # Running.

    def _run_forever_setup(self):
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self._debug)
        self._old_agen_hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook,
                               finalizer=self._asyncgen_finalizer_hook)
        if self._switch_interval is not None:
            self._old_switch_interval = sys.getswitchinterval()
            sys.setswitchinterval(self._switch_interval)
        events._set_running_loop(self)

    def _run_forever_cleanup(self):
        self._stopping = False
        self._thread_id = None
        events._set_running_loop(None)
        self._set_coroutine_origin_tracking(False)
        if self._old_switch_interval is not None:
            sys.setswitchinterval(self._old_switch_interval)
            self._old_switch_interval = None
        if self._old_agen_hooks is not None:
            sys.set_asyncgen_hooks(*self._old_agen_hooks)
            self._old_agen_hooks = None

    def run_forever(self):
        """Run until stop() is called."""
        self._run_forever_setup()
        try:
            self._run(_checkpoint)
        finally:
            self._run_forever_cleanup()

    def close(self):
        """Close the loop, which must not be running. What is still scheduled is dropped."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        if self._other_views and getattr(events._get_running_loop(), "_first_view", None) is self:
            raise RuntimeError("a parallel loop cannot be closed by one of its own threads")
        if self._watchdog is not None:
            self._watchdog.stop()
        self._close_view()
        self._shut()
        for view in self._other_views:
            view.close()  # which has ended with its thread, if there was one

    def _close_view(self):
        self._close_unix()
        super().close()
        self._selector = None
        for wait in list(self._sync_waits or ()):
            wait.give_up()  # others get what it was woken for

    # Threads.

    def run_in_executor(self, executor, func, *args):
        """A future for func(*args) in a thread of the executor; None: the default executor."""
        if executor is None:
            executor = self._default_executor
        if executor is not None and type(executor) is not DefaultExecutor:
            return super().run_in_executor(executor, func, *args)
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        if executor is self._default_executor:
            self._check_default_executor()
        if executor is None:
            executor = self._default_executor = DefaultExecutor()
        return executor.run(self, func, args)

    # Parallel mode.

    async def shutdown_asyncgens(self):
        """Close all active asynchronous generators; in parallel mode first end what else still runs there."""
        if self._other_views:
            await _parallel.finish_views(self, self._other_views)
        await super().shutdown_asyncgens()

    def _raise_from_strand(self, exception):
        def leave():
            raise exception

        self.call_soon_threadsafe(leave)

    # Metrics.

    def metrics(self):
        """What the loop has counted so far, as a dict; from any thread. RuntimeError: the loop is closed.

        `workers` has one dict of counters for each worker: turns, callbacks (of call_soon, timers and tasks), events
        (of descriptors and operations), waits, parks (waits that could block), lingered (parks that kept the GIL),
        gil_acquisitions, wakes_written and wakes_suppressed (by other threads), submissions, enters, rearms,
        starvations and holdouts of the backend; in parallel mode also strands_spawned, strands_ended, strands_stolen,
        strands_handed_over, strands_injected, strands_overflowed, searches, steals, injector_depth, turns_cut (turns
        that left callbacks for later because they took long), requests_queued (HTTP requests that others could take,
        because the worker was behind) and baton_timeouts (on a build with a GIL: a worker took the turn over from
        another one that had it for 5 ms, because that one blocked in a callback or computed).

        turn_durations, callback_durations, ready_delays, gil_waits and in parallel mode queue_delays are histograms:
        the first count is of what took less than 1.024 us, and each next one of up to twice as long; the same names
        with _ns have the sums. One turn, and one wait for the GIL, in `sampled` is timed: there each callback and each
        event counts with its own length and what the loop itself did for it, such as receiving. ready_delays: how
        long callbacks that were scheduled in such a turn waited until they ran (those of other threads, and timers,
        from when the loop took them); one of them, taken at random, counts for all. queue_delays: how long strands
        waited, every time; one that is scheduled by its own worker as if from the beginning of the turn.
        """
        return {"backend": self.backend, "parallel": self._first_view is not None, "sampled": 16,
                "workers": [view._metrics() for view in (self, *self._other_views)]}

    # Tasks.

    def _create_task_slow(self, coro, **kwargs):
        factory = self._task_factory
        if factory is None:
            task = tasks.Task(coro, loop=self, **kwargs)
            if task._source_traceback:
                del task._source_traceback[-1]
        elif sys.version_info >= (3, 14):
            task = factory(self, coro, **kwargs)
        else:
            # Before 3.14 the name is not the factory's business, nor the context unless there is one.
            name = kwargs.pop("name", None)
            if kwargs.get("context", self) is None:
                del kwargs["context"]
            task = factory(self, coro, **kwargs)
            if name is not None:
                task.set_name(name)
        try:
            return task
        finally:
            # gh-128552: no cycle through this frame's traceback.
            del task


class View(_parallel.ViewMixin, Loop):
    """The loop of another thread in parallel mode: made by the first view, and ended with it."""

    def __init__(self, first):
        _core.LoopCore.__init__(self, native_tasks=first.native_tasks, first=first)
        self._first_view = first
        asyncio.BaseEventLoop.__init__(self)
        self._init_unix()
        self._other_views = ()


def _after_fork_in_child():
    if _core._abandon_loops():
        if isinstance(events._get_running_loop(), Loop):
            events._set_running_loop(None)
        forget_wakeup_fd()


os.register_at_fork(after_in_child=_after_fork_in_child)
