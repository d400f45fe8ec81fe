"""Import this before starting granian from Python: its loops "auto" and "pyloop" are then pyloop's.

granian's command line knows a closed list of loops, so there "auto" is the way in.
"""

import asyncio

from granian._loops import loops

import pyloop


@loops.register("pyloop")
@loops.register("auto")
def build_pyloop():
    """The loop granian's workers run on."""
    loop = pyloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop
