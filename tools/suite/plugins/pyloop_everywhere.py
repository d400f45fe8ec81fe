"""A pytest plugin for other projects' suites: whatever makes an event loop in them makes a pyloop.Loop."""

import pyloop
from pyloop import _launcher


def use_in_anyio():
    """AnyIO's test runner gets pyloop through its own loop_factory option, unless a test names another."""
    try:
        from anyio import pytest_plugin
    except ImportError:
        return
    original = pytest_plugin.get_runner

    def get_runner(backend_name, backend_options):
        if backend_name == "asyncio":
            backend_options = {"loop_factory": pyloop.new_event_loop, **(backend_options or {})}
        return original(backend_name, backend_options)

    pytest_plugin.get_runner = get_runner


# As early as `python -m pyloop` does it; AnyIO only once pytest has rewritten its assertions.
_launcher.make_default()


def pytest_sessionstart(session):
    use_in_anyio()
