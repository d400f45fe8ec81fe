"""For tests of parallel mode: a loop with views, and the way into a certain one."""

import asyncio
import contextlib
import sysconfig

import pyloop

HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")


def there(coro, number=0):
    """Runs the coroutine in one of the other views; awaitable in the first one."""
    view = asyncio.get_running_loop()._first_view._other_views[number]
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, view))


@contextlib.contextmanager
def parallel_runner(backend, *, workers=2, debug=False):
    """(runner, reports): an asyncio.Runner, and what the exception handler got."""
    reports = []
    loop = pyloop.Loop(backend=backend, parallel=True, workers=workers)
    loop.set_exception_handler(lambda _, context: reports.append(context))
    with asyncio.Runner(debug=debug, loop_factory=lambda: loop) as runner:
        yield runner, reports
