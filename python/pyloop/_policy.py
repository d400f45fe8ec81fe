"""The event loop policy, for Python up to 3.15."""

import asyncio
import sys
import warnings
from asyncio import unix_events

from ._loop import Loop

# The public name warns on 3.14 and 3.15, where only its use is deprecated and not ours to complain about.
_Base = (getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)
         or unix_events._DefaultEventLoopPolicy)


class EventLoopPolicy(_Base):
    """asyncio's default policy with pyloop's loops."""

    _loop_factory = Loop


def install(*, streams=None, sync=False):
    """Make pyloop the default of asyncio in this process, through the event loop policy.

    streams: put pyloop's StreamReader, StreamWriter, open_connection() and so on under asyncio's names, too.
        None: as sync, because asyncio's own belong to one loop, and a pool of connections is such an object.
    sync: the same with pyloop.sync's locks and queues, for programs whose loops or threads share such objects.
    Modules that have imported the names themselves keep what they have: call it early.
    """
    if sys.version_info >= (3, 14):
        warnings.warn("pyloop.install() relies on event loop policies, which Python 3.16 removes; "
                      "use pyloop.run() or loop_factory=pyloop.new_event_loop",
                      DeprecationWarning, stacklevel=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(EventLoopPolicy())
    if streams or (streams is None and sync):
        from . import _streams

        _streams.install()
    if sync:
        from . import sync as primitives

        primitives._install()
