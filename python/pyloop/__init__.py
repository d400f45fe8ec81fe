"""pyloop: an asyncio event loop and ASGI server on a C runtime."""

import asyncio as _asyncio
import functools as _functools
import sys as _sys

from ._core import __version__
from ._loop import Loop

__all__ = ("Loop", "__version__", "new_event_loop", "run")

_HAS_POLICIES = _sys.version_info < (3, 16)
if _HAS_POLICIES:
    __all__ += ("EventLoopPolicy", "install")


def new_event_loop(**options):
    """A new event loop; the options are those of Loop."""
    return Loop(**options)


def run(main, *, debug=None, loop_factory=None, **options):
    """asyncio.run() on a pyloop loop; the options are those of Loop."""
    if loop_factory is None:
        loop_factory = _functools.partial(Loop, **options)
    elif options:
        raise TypeError("run() takes either loop_factory or options of the loop, not both")
    if _sys.version_info >= (3, 12):
        return _asyncio.run(main, debug=debug, loop_factory=loop_factory)
    if _asyncio._get_running_loop() is not None:
        raise RuntimeError("pyloop.run() cannot be called from a running event loop")
    with _asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)


# Event loop policies are deprecated from Python 3.14 and gone in 3.16: not imported before they are used.
def __getattr__(name):
    if name in ("EventLoopPolicy", "install"):
        if not _HAS_POLICIES:
            raise AttributeError(
                f"module 'pyloop' has no attribute {name!r}: event loop policies were removed in "
                "Python 3.16, use pyloop.run() or loop_factory=pyloop.new_event_loop")
        from . import _policy

        value = globals()[name] = getattr(_policy, name)
        return value
    raise AttributeError(f"module 'pyloop' has no attribute {name!r}")
