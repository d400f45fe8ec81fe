"""IPython: `c.InteractiveShell.loop_runner = "pyloop.ipython.runner"` runs top-level await on pyloop."""

import pyloop

_loop = None


def runner(coro):
    """Run one cell's coroutine. All cells share a loop, so that tasks live on from cell to cell."""
    global _loop
    if _loop is None or _loop.is_closed():
        _loop = pyloop.new_event_loop()
    return _loop.run_until_complete(coro)
