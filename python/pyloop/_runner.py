"""pyloop.run(): asyncio.run() on a loop of ours."""

import asyncio
import functools
import sys

from ._loop import Loop


def run(main, *, debug=None, loop_factory=None, **options):
    """asyncio.run() on a pyloop loop; the options are those of Loop."""
    if loop_factory is None:
        loop_factory = functools.partial(Loop, **options)
    elif options:
        raise TypeError("run() takes either loop_factory or options of the loop, not both")
    if sys.version_info >= (3, 12):
        return asyncio.run(main, debug=debug, loop_factory=loop_factory)
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("pyloop.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)
