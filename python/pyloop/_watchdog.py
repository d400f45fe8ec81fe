"""The watchdog of a loop: a thread that names a callback which blocks the loop longer than a limit.

A worker counts what it runs, one by one. Busy and at the same number for longer than the limit means that one callback
does not return; the thread's stack says which. A call that keeps the GIL all the time keeps it from this thread, too,
and is not seen.
"""

import asyncio
import logging
import sys
import sysconfig
import threading
import time
import traceback
import weakref

from ._seconds import seconds_option

logger = logging.getLogger("pyloop.watchdog")

LOOKS = 4
"""In the time of the limit: a callback is reported after one to one and a quarter of it."""

_HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")


def check_limit(limit):
    """Seconds or None, of the option or else of PYLOOP_WATCHDOG. TypeError or ValueError."""
    return seconds_option("watchdog", limit, 0.001)


class _Seen:
    """What was seen of one view."""

    def __init__(self, view, limit):
        self.view = weakref.ref(view)
        self.limit = limit
        self.progress = None
        self.since = 0.0
        self.is_reported = False

    def look(self, now):
        """False when the view is gone."""
        view = self.view()
        if view is None or view.is_closed():
            return False
        thread_id = view._thread_id
        try:
            progress = None if thread_id is None else view._progress()
        except RuntimeError:
            return False  # it was closed, or another process's
        if progress is None or progress != self.progress:
            if self.is_reported:
                logger.warning("%s: it went on after %.3f s", self.name(view), now - self.since)
            self.progress, self.since, self.is_reported = progress, now, False
        elif now - self.since >= self.limit and not self.is_reported:
            self.is_reported = True
            self.report(view, thread_id, now - self.since)
        return True

    def name(self, view):
        return f"{view!r}" if view._first_view is None else f"{view!r} (worker {view._lane_index})"

    def report(self, view, thread_id, seconds):
        frame = sys._current_frames().get(thread_id)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "  (no Python frame)\n"
        del frame
        # Without a GIL the task could end while it is looked at.
        task = asyncio.current_task(view) if _HAS_GIL else None
        logger.warning("%s has been blocked for %.3f s by one callback%s:\n%s", self.name(view), seconds,
                       f" of {task!r}" if task is not None else "", stack.rstrip())


class Watchdog:
    """Watches the views of a loop until they are closed, or stop() is called."""

    def __init__(self, views, limit):
        self._seen = [_Seen(view, limit) for view in views]
        self._interval = limit / LOOKS
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pyloop-watchdog", daemon=True)
        self._thread.start()

    def _watch(self):
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            self._seen = [seen for seen in self._seen if seen.look(now)]
            if not self._seen:
                return

    def stop(self):
        """In the child of a fork there is nothing to stop, and the lock may be held by nobody who lives."""
        if self._thread.is_alive():
            self._stopped.set()
            if threading.current_thread() is not self._thread:  # where a forgotten loop may be collected
                self._thread.join()
