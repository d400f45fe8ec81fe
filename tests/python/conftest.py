"""Every test that takes `backend`, `new_loop`, `loop` or `run` runs once on each backend.

PYLOOP_BACKEND=epoll narrows that down to one. A backend that does not work here skips with the cause.
"""

import gc
import os
import socket
import sys
import warnings

import pytest

import pyloop


def wanted_backends():
    name = os.environ.get("PYLOOP_BACKEND") or "auto"
    if name != "auto":
        return [name]
    return ["io_uring", "epoll"] if sys.platform == "linux" else ["kqueue"]


def as_parameter(name):
    try:
        pyloop.Loop(backend=name).close()
    except RuntimeError as error:
        return pytest.param(name, marks=pytest.mark.skip(reason=str(error)))
    return pytest.param(name)


@pytest.fixture(params=[as_parameter(name) for name in wanted_backends()])
def backend(request):
    return request.param


@pytest.fixture
def reports():
    """What the loops' exception handler got. A test that expects something clears the list."""
    contexts = []
    yield contexts
    assert contexts == []


@pytest.fixture
def new_loop(backend, reports):
    """Makes loops of the backend; they are closed in the end if the test has not done so."""
    loops = []

    def make(**options):
        loop = pyloop.Loop(backend=backend, **options)
        loop.set_exception_handler(lambda _, context: reports.append(context))
        loops.append(loop)
        return loop

    yield make
    for loop in loops:
        loop.close()


@pytest.fixture
def loop(new_loop):
    return new_loop()


@pytest.fixture
def run(new_loop):
    """run(coroutine) on a fresh loop; afterwards nothing is left that would warn."""
    def run_main(main):
        loop = new_loop()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    yield run_main
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        gc.collect()


@pytest.fixture
def pair():
    """Two connected sockets that do not block."""
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    yield a, b
    a.close()
    b.close()
