"""Parallel mode: the views of a loop, and pyloop.spawn()."""

import asyncio
import atexit
import contextvars
import threading
import types
import weakref
from asyncio import coroutines, tasks

_serial_tasks = set()  # what spawn() made on loops without views: they need nobody to keep them
_STREAM_FACTORIES = ("start_server.<locals>.factory", "start_unix_server.<locals>.factory")
_first_views = weakref.WeakSet()
mark_strand = None  # the audit's: (name, context) -> the context of the strand


def spawn(coro, *, name=None, context=None):
    """Run a coroutine in a strand of its own; returns a future of the caller's loop.

    In parallel mode the strand goes to whichever worker has time for it, and stays there with everything it creates.
    The result can be awaited, cancelled and asked from any strand. On other loops this is create_task(), so the same
    program runs in both modes. Either way nobody has to keep what is returned.
    """
    loop = asyncio.get_running_loop()
    if not coroutines.iscoroutine(coro):
        raise TypeError(f"a coroutine was expected, got {coro!r}")
    if context is not None and not isinstance(context, contextvars.Context):
        raise TypeError(f"a Context was expected, got {context!r}")
    if mark_strand is not None:
        context = mark_strand(name or coro.__qualname__, context)
    if getattr(loop, "_first_view", None) is not None:
        return loop._spawn(coro, name, context)
    kwargs = {} if context is None else {"context": context}
    task = loop.create_task(coro, name=name, **kwargs)
    _serial_tasks.add(task)
    task.add_done_callback(_serial_tasks.discard)
    return task


def check_options(parallel, workers):
    """The number of workers for LoopCore: -1 in serial mode, 0 for one per processor."""
    if workers is None:
        return 0 if parallel else -1
    if not isinstance(workers, int) or isinstance(workers, bool):
        raise TypeError(f"workers must be an integer, got {workers!r}")
    if not parallel:
        raise ValueError("workers is an option of parallel mode: parallel=True is missing")
    if not 1 <= workers <= 64:
        raise ValueError(f"workers must be from 1 to 64, got {workers}")
    return workers


def open_views(first, view_class):
    """The other views of a first one."""
    _first_views.add(first)
    return [view_class(first) for _ in range(first.workers - 1)]


class ViewMixin:
    """What is different in a view that is not the first one. Everything here runs in the view's own thread."""

    def _begin_lane(self):
        first = self._first_view
        threading.current_thread().name = f"pyloop-{self._lane_index}"
        self.slow_callback_duration = first.slow_callback_duration
        self._task_factory = first._task_factory
        self.set_debug(first.get_debug())
        self._run_forever_setup()

    def _end_lane(self):
        self._run_forever_cleanup()
        self._close_view()
        _forget_thread()

    # One handler for all views, and stop() means the program's loop.

    @property
    def _exception_handler(self):
        return self._first_view._exception_handler

    @_exception_handler.setter
    def _exception_handler(self, handler):
        if handler is not None:  # BaseEventLoop.__init__() assigns None
            self._first_view._exception_handler = handler

    def set_exception_handler(self, handler):
        self._first_view.set_exception_handler(handler)

    def stop(self):
        first = self._first_view
        first.call_soon_threadsafe(first.stop)

    # One pool of threads for all views.

    def run_in_executor(self, executor, func, *args):
        if executor is None:
            self._check_closed()
            self._first_view._check_default_executor()
            executor = self._first_view._default_executor
        return super().run_in_executor(executor, func, *args)

    def set_default_executor(self, executor):
        self._first_view.set_default_executor(executor)


def _forget_thread():
    """Of a thread that threading did not start it keeps an entry for good, up to Python 3.12."""
    with threading._active_limbo_lock:
        if isinstance(threading._active.get(threading.get_ident()), threading._DummyThread):
            del threading._active[threading.get_ident()]


def factory_of_each_view(factory):
    """A protocol factory for connections of any view.

    The one inside asyncio.start_server() gives its reader and protocol the loop that start_server() was called on:
    here they get the loop they are made on.
    """
    code = getattr(factory, "__code__", None)
    if code is None or code.co_qualname not in _STREAM_FACTORIES or "loop" not in code.co_freevars:
        return factory

    def make():
        loop = types.CellType(asyncio.get_running_loop())
        cells = (loop if name == "loop" else cell
                 for name, cell in zip(code.co_freevars, factory.__closure__, strict=True))
        return types.FunctionType(code, factory.__globals__, closure=tuple(cells))()
    return make


async def _finish_view(view):
    """In a view's own thread: what asyncio.run() does when its main coroutine has ended."""
    left = [task for task in tasks.all_tasks(view) if task is not tasks.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for task in left:
        if not task.cancelled() and task.exception() is not None:
            view.call_exception_handler({
                "message": "unhandled exception during the shutdown of a parallel loop",
                "exception": task.exception(),
                "task": task,
            })
    await view.shutdown_asyncgens()


async def finish_views(first, others):
    """Cancels what still runs in the other views, and waits until it has ended."""
    first._end_spawning()
    ends = [asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_finish_view(view), view)) for view in others]
    await asyncio.gather(*ends)


@atexit.register
def _close_views():
    """Threads of lanes must not outlive the interpreter."""
    for first in list(_first_views):
        if not first.is_closed() and not first.is_running():
            first.close()
