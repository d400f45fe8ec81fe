"""The default executor, and what run_in_executor() does with it.

A worker of ThreadPoolExecutor sets an item's result, reports itself idle and then waits for the next item. Told of the
result at the first step, the loop would wake while the worker still needs the GIL, and would start another thread for
its next item, because the worker does not count as idle yet. So the loop is told when the worker asks for its next
item, a few steps later.
"""

import concurrent.futures
import functools
import queue
import threading
from asyncio import futures


class DefaultExecutor(concurrent.futures.ThreadPoolExecutor):
    """The ThreadPoolExecutor that a loop makes for run_in_executor(None, ...)."""

    def __init__(self):
        super().__init__(thread_name_prefix="asyncio")
        self._work_queue = _WorkQueue()  # nobody has the one that is there before the first submit()

    def run(self, loop, func, args):
        """A future of the loop for func(*args); thread of the loop."""
        source = self.submit(func, *args)
        target = loop.create_future()
        target.add_done_callback(functools.partial(_cancel_source, source))
        source.add_done_callback(functools.partial(self._work_queue.deliver, loop, target))
        return target


class _WorkQueue(queue.SimpleQueue):
    def __init__(self):
        self._worker = threading.local()  # .undelivered: what this worker has finished; others have none

    def deliver(self, loop, target, source):
        """When `source` is done, in whatever thread that happens."""
        undelivered = getattr(self._worker, "undelivered", None)
        if undelivered is None or loop._thread_id == threading.get_ident():
            _post(loop, target, source)
        else:
            undelivered.append((loop, target, source))

    def get(self, block=True, timeout=None):
        self._deliver_all()
        self._worker.undelivered = []
        return super().get(block, timeout)

    def get_nowait(self):
        item = super().get_nowait()  # Empty: get() follows, see concurrent.futures.thread._worker()
        self._deliver_all()
        return item

    def _deliver_all(self):
        undelivered = getattr(self._worker, "undelivered", None)
        while undelivered:
            _post(*undelivered.pop(0))


def _post(loop, target, source):
    """What can be done outside the loop's thread is done here."""
    try:
        if source.cancelled():
            loop.call_soon_threadsafe(target.cancel)
        elif (exception := source.exception()) is not None:
            loop.call_soon_threadsafe(_set_exception, target, futures._convert_future_exc(exception))
        else:
            loop.call_soon_threadsafe(futures._set_result_unless_cancelled, target, source.result())
    except RuntimeError:
        if not loop.is_closed():
            raise


def _set_exception(target, exception):
    if not target.cancelled():
        target.set_exception(exception)


def _cancel_source(source, target):
    if target.cancelled():
        source.cancel()
