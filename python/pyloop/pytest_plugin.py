"""Run pytest-asyncio (1.4 or newer) and AnyIO tests on pyloop: `pytest -p pyloop.pytest_plugin`."""

import pytest

import pyloop


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config, item):
    """pytest-asyncio's hook: the loop factories a test is run with."""
    return {"pyloop": pyloop.new_event_loop}


@pytest.fixture
def anyio_backend():
    """AnyIO's fixture: the asyncio backend on a pyloop loop."""
    return "asyncio", {"loop_factory": pyloop.new_event_loop}
