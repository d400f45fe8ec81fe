"""Loop(watchdog=SECONDS): what blocks a loop is named by another thread."""

import asyncio
import gc
import logging
import math
import os
import re
import subprocess
import sys
import threading
import weakref

import pytest

import pyloop
from process_kit import TIMEOUT, environment
from pyloop import _watchdog

LIMIT = 0.05


class Reports(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []
        self.blocked, self.went_on = threading.Event(), threading.Event()

    def emit(self, record):
        self.messages.append(record.getMessage())
        (self.went_on if "went on after" in self.messages[-1] else self.blocked).set()


@pytest.fixture
def reports():
    handler = Reports()
    _watchdog.logger.addHandler(handler)
    yield handler
    _watchdog.logger.removeHandler(handler)


def block(reports):
    assert reports.blocked.wait(TIMEOUT), "not reported"


def test_a_coroutine_that_blocks_is_named(backend, reports):
    async def culprit():
        block(reports)

    async def main():
        await asyncio.create_task(culprit(), name="the guilty one")
        while not reports.went_on.is_set():
            await asyncio.sleep(LIMIT / 10)

    pyloop.run(main(), backend=backend, watchdog=LIMIT)
    blocked, went_on = reports.messages
    assert re.match(r"<Loop running=True .*> has been blocked for 0\.\d+ s by one callback", blocked)
    assert "in culprit\n    block(reports)" in blocked
    assert _watchdog._HAS_GIL == ("the guilty one" in blocked)
    assert re.search(r"it went on after \d+\.\d+ s$", went_on)


def test_protocols_and_timers_are_watched(backend, reports):
    class Culprit(asyncio.Protocol):
        def data_received(self, data):
            block(reports)
            reports.blocked.clear()
            asyncio.get_running_loop().call_later(LIMIT / 10, self.timer)

        def timer(self):
            block(reports)
            asyncio.get_running_loop().stop()

    async def serve():
        server = await loop.create_server(Culprit, "127.0.0.1", 0)
        return server, await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())

    loop = pyloop.Loop(backend=backend, watchdog=LIMIT)
    try:
        server, (transport, _) = loop.run_until_complete(serve())
        transport.write(b"x")
        loop.run_forever()
        first, second = (message for message in reports.messages if "has been blocked" in message)
        assert "in data_received\n" in first and "in timer\n" in second
        transport.close()
        server.close()
        loop.run_until_complete(server.wait_closed())
    finally:
        loop.close()


def test_the_worker_is_named_in_parallel_mode(backend, reports):
    async def culprit():
        block(reports)
        return asyncio.get_running_loop()._lane_index, threading.current_thread().name

    async def main():
        return await pyloop.spawn(culprit())

    index, _ = pyloop.run(main(), backend=backend, parallel=True, workers=2, watchdog=LIMIT)
    assert f"(worker {index}) has been blocked" in reports.messages[0]
    assert "in culprit\n" in reports.messages[0]


def test_only_a_callback_that_does_not_return_counts(backend, reports):
    """Looked at by hand, with a clock of our own: many callbacks, waits and pauses are no reason, one callback is."""
    loop = pyloop.Loop(backend=backend)
    seen = _watchdog._Seen(loop, 1.0)
    clock = iter(range(0, 1000, 2))

    def look():
        assert seen.look(next(clock))

    async def main():
        for _ in range(3):
            look()
            await asyncio.sleep(0)
        for _ in range(3):
            look()
            await asyncio.sleep(0.001)
        assert not reports.messages
        look()
        look()
        assert len(reports.messages) == 1
        look()
        assert len(reports.messages) == 1, "reported twice"

    look()
    look()
    loop.run_until_complete(main())
    look()
    assert [("went on" in message) for message in reports.messages] == [False, True]
    look()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    while loop.metrics()["workers"][0]["parks"] == 0 or loop._progress() is not None:
        os.sched_yield()
    look()
    look()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    assert len(reports.messages) == 2, "a waiting loop was reported"
    loop.close()
    assert not seen.look(0)


def test_the_thread_ends_with_the_loop(backend):
    before = threading.active_count()
    loop = pyloop.Loop(backend=backend, watchdog=LIMIT)
    assert threading.active_count() == before + 1
    loop.close()
    assert threading.active_count() == before


def test_it_keeps_no_loop_alive(backend):
    loop = pyloop.Loop(backend=backend, watchdog=LIMIT)
    thread = loop._watchdog._thread
    ref = weakref.ref(loop)
    with pytest.warns(ResourceWarning):
        del loop
        gc.collect()
        thread.join(TIMEOUT)
    gc.collect()
    assert not thread.is_alive()
    assert ref() is None


@pytest.mark.parametrize("limit, error", [
    (0, ValueError), (-1, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("1", TypeError),
    (True, TypeError)])
def test_bad_limits(backend, limit, error):
    with pytest.raises(error, match="watchdog must be a number of seconds"):
        pyloop.Loop(backend=backend, watchdog=limit)


def test_the_environment_variable(backend, monkeypatch):
    monkeypatch.setenv("PYLOOP_WATCHDOG", "0.5")
    loop = pyloop.Loop(backend=backend)
    assert loop._watchdog is not None
    loop.close()
    for off in "", "0":
        monkeypatch.setenv("PYLOOP_WATCHDOG", off)
        loop = pyloop.Loop(backend=backend)
        assert loop._watchdog is None
        loop.close()
    monkeypatch.setenv("PYLOOP_WATCHDOG", "soon")
    with pytest.raises(ValueError, match="PYLOOP_WATCHDOG must be a number of seconds, got 'soon'"):
        pyloop.Loop(backend=backend)


def test_after_fork(backend, reports):
    loop = pyloop.Loop(backend=backend, watchdog=LIMIT)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            reports.blocked.clear()

            async def culprit():
                block(reports)

            pyloop.run(culprit(), backend=backend, watchdog=LIMIT)
            loop.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    loop.close()


def test_command_line(tmp_path, backend):
    (tmp_path / "program.py").write_text("import threading\nasync def main():\n    threading.Event().wait(0.2)\n")
    for limit, status, words in (
            ("0.05", 0, "threading.Event().wait(0.2)"), ("0", 2, "watchdog must be a number of seconds")):
        done = subprocess.run(
            [sys.executable, "-m", "pyloop.run", "program:main", "--backend", backend, "--watchdog", limit],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert done.returncode == status, done.stderr
        assert words in done.stderr and "Traceback" not in done.stderr
