"""Put another event loop under CPython's own test modules: import this before any of them.

`install(name)` knows "asyncio" (nothing changes), "uvloop" and "pyloop". The modules create loops through
asyncio.new_event_loop(), asyncio.run(), Runner, IsolatedAsyncioTestCase.loop_factory and, where they name a class,
asyncio.EventLoop; all of them are pointed at the loop under test.
"""

import asyncio
import asyncio.events
import asyncio.runners
import unittest


def factory_of(name):
    """The zero-argument loop factory called `name`. Raises ImportError if it is not installed."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name == "uvloop":
        return _uvloop_class()
    return __import__(name).new_event_loop


def _uvloop_class():
    """uvloop's Loop with the one private attribute that the tests' own tear-down reads."""
    import uvloop

    class Loop(uvloop.Loop):
        _default_executor = None

    return Loop


def install(name):
    """Make `name` the loop of everything imported after this. Returns its factory."""
    new_event_loop = factory_of(name)
    if name == "asyncio":
        return new_event_loop

    def injected():
        return new_event_loop()

    asyncio.new_event_loop = asyncio.events.new_event_loop = injected
    asyncio.EventLoop = new_event_loop if isinstance(new_event_loop, type) else __import__(name).Loop
    unittest.IsolatedAsyncioTestCase.loop_factory = staticmethod(injected)
    if not hasattr(unittest.IsolatedAsyncioTestCase, "_setupAsyncioRunner"):
        return new_event_loop
    # Before 3.13 IsolatedAsyncioTestCase has no loop_factory.
    original = unittest.IsolatedAsyncioTestCase._setupAsyncioRunner

    def setup_runner(self):
        self._asyncioRunner = asyncio.Runner(debug=True, loop_factory=injected)

    if "loop_factory" not in original.__code__.co_names:
        unittest.IsolatedAsyncioTestCase._setupAsyncioRunner = setup_runner
    return new_event_loop
