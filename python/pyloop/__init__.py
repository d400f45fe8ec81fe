"""pyloop: an asyncio event loop and ASGI server on a C runtime."""

import os as _os
import sys as _sys

from . import _tasks as _tasks
from ._core import ClientDisconnected, __version__
from ._loop import Loop
from ._parallel import spawn
from ._runner import run

__all__ = ("ClientDisconnected", "Loop", "__version__", "get_include", "metrics", "native", "new_event_loop", "run",
           "serve", "spawn", "sync")

_STREAMS = ("StreamReader", "StreamReaderProtocol", "StreamWriter", "open_connection", "open_unix_connection",
            "start_server", "start_unix_server")
__all__ += _STREAMS

if _os.environ.get("PYLOOP_AUDIT", "0") not in ("", "0"):
    from . import _audit

    _audit.start()

_HAS_POLICIES = _sys.version_info < (3, 16)
if _HAS_POLICIES:
    __all__ += ("EventLoopPolicy", "install")


def get_include():
    """The folder of the C headers, for the compiler of an extension that uses <pyloop/python.h>."""
    return _os.path.join(_os.path.dirname(__file__), "include")


def new_event_loop(**options):
    """A new event loop; the options are those of Loop."""
    return Loop(**options)


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
    if name in _STREAMS:
        from . import _streams

        value = globals()[name] = getattr(_streams, name)
        return value
    if name in ("metrics", "native", "sync"):
        import importlib

        return importlib.import_module("." + name, __name__)
    if name == "serve":
        from ._run.serving import serve

        globals()[name] = serve
        return serve
    raise AttributeError(f"module 'pyloop' has no attribute {name!r}")
