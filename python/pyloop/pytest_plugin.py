"""Run pytest-asyncio (1.4 or newer) and AnyIO tests on pyloop: `pytest -p pyloop.pytest_plugin`."""

import pytest

import pyloop


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config, item):
    """pytest-asyncio's hook: the loop factories a test is run with."""
    return {"pyloop": pyloop.new_event_loop}


class _AnyioFixture:

    # Of the session, so that an asynchronous fixture of any scope can use it.
    @pytest.fixture(scope="session")
    def anyio_backend(self):
        """AnyIO's fixture: the asyncio backend on a pyloop loop."""
        return "asyncio", {"loop_factory": pyloop.new_event_loop}


def pytest_configure(config):
    """Of two plugins with the same fixture the one that came last wins, and AnyIO's came after this one."""
    config.pluginmanager.register(_AnyioFixture(), "pyloop-anyio")
