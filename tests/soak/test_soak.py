"""Under load for a while, what the process holds stays flat.

PYLOOP_SOAK_SECONDS is the time under load of each test (default 10; a release is looked at with 60).
"""

import asyncio
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

import pyloop

import usage

HERE = pathlib.Path(__file__).resolve().parent
SECONDS = float(os.environ.get("PYLOOP_SOAK_SECONDS", "10"))
BACKENDS = [os.environ["PYLOOP_BACKEND"]] if "PYLOOP_BACKEND" in os.environ else ["io_uring", "epoll"]
MIB = 1 << 20

# Growth that is not a leak: tables and freelists of the interpreter, arenas of malloc.
BOUNDS = {"descriptors": 0, "threads": 0, "objects": 200, "blocks": 2000, "malloc": MIB, "resident": 2 * MIB}


@pytest.fixture(params=BACKENDS)
def backend(request):
    try:
        pyloop.Loop(backend=request.param).close()
    except RuntimeError as error:
        pytest.skip(str(error))
    return request.param


def assert_flat(before, after, what):
    grown = {name: after[name] - before[name] for name in before}
    too_much = {name: count for name, count in grown.items() if count > BOUNDS[name]}
    assert not too_much, f"{what}: grew by {grown}; before: {before}"


class Server:
    """python -m pyloop.run in a process of its own, on a port that it chose."""

    def __init__(self, backend):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyloop.run", "app:app", "--app-dir", HERE, "--port", "0",
             "--no-access-log", "--log-level", "info"],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYLOOP_BACKEND": backend})
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if match := re.search(r"http://[\w.]+:(\d+)", line):
                self.url = match.group(0)
                self.descriptors_at_rest = self.usage()["descriptors"]
                return
        raise AssertionError("the server did not start: " + "".join(seen))

    def usage(self):
        with urllib.request.urlopen(self.url + "/usage", timeout=60) as response:
            return json.load(response)

    def usage_at_rest(self):
        """Once the server has seen the client's connections end; what it never closes shows in the counts."""
        deadline = time.monotonic() + 30
        while True:
            counts = self.usage()
            if counts["descriptors"] <= self.descriptors_at_rest or time.monotonic() > deadline:
                return counts

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            # After a graceful stop the signal takes its usual effect, as uvicorn does it.
            assert self.process.wait(30) in (0, -signal.SIGTERM)
        finally:
            self.process.kill()
            self.process.stderr.close()


def load(server, seconds):
    """Run wrk; every answer must be good."""
    done = subprocess.run(
        ["wrk", "-t1", "-c64", f"-d{max(1, round(seconds))}s", "-s", HERE / "mix.lua", server.url],
        capture_output=True, text=True, timeout=seconds + 60, check=True)
    assert "Non-2xx" not in done.stdout, done.stdout
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done.stdout)
    assert errors is None or set(errors.groups()) == {"0"}, done.stdout
    return int(re.search(r"(\d+) requests in", done.stdout).group(1))


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_http_server_is_flat(backend):
    server = Server(backend)
    try:
        load(server, SECONDS * 0.3)
        before = server.usage_at_rest()
        requests = load(server, SECONDS * 0.7)
        after = server.usage_at_rest()
    finally:
        server.stop()
    assert requests > 100
    assert_flat(before, after, f"{requests} requests")


async def chatter(address, count):
    """Connections that come and go; some politely, some not."""
    for index in range(count):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"m" * (100 if index % 3 else 100_000))
        await reader.readexactly(100)
        if index % 4:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass  # we left while the echo was still being sent
        else:
            writer.transport.abort()


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def test_streams_are_flat(backend):
    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        async def run_for(seconds):
            cycles, deadline = 0, loop.time() + seconds
            while loop.time() < deadline:
                await asyncio.gather(*[chatter(address, 5) for _ in range(8)])
                cycles += 1
            while len(asyncio.all_tasks()) > 1:  # the last handlers on the server's side
                await asyncio.sleep(0)
            return cycles

        await run_for(SECONDS * 0.3)
        before = usage.take()
        cycles = await run_for(SECONDS * 0.7)
        after = usage.take()
        server.close()
        await server.wait_closed()
        assert_flat(before, after, f"{cycles * 40} connections")

    pyloop.run(main(), backend=backend)
