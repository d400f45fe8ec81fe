"""The loop beside a thread that computes."""

import asyncio
import contextlib
import math
import subprocess
import sys
import sysconfig
import threading

import pytest

import pyloop

ROUNDS = 300
INTERVAL = 0.0005

CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    for number in range(int(sys.argv[2])):
        sum(range(5000))  # long enough for the other thread to take the GIL
        message = b"%04d" % number
        sock.sendall(message)
        assert sock.recv(4, socket.MSG_WAITALL) == message
"""

needs_gil = pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="no GIL to wait for")


class Spinner:
    """A thread that computes, while it may."""

    def __init__(self):
        self.count = 0
        self.is_ended = False
        self.may_compute = threading.Event()
        self.may_compute.set()
        self.thread = threading.Thread(target=self.spin)

    def spin(self):
        while not self.is_ended:
            self.count += 1
            if not self.may_compute.is_set():
                self.may_compute.wait()


@contextlib.contextmanager
def spinning():
    spinner = Spinner()
    spinner.thread.start()
    try:
        yield spinner
    finally:
        spinner.is_ended = True
        spinner.thread.join()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def serve_a_client():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", CLIENT, str(port), str(ROUNDS))
    assert await client.wait() == 0
    server.close()


@needs_gil
def test_the_loop_lingers_beside_a_thread_that_computes(loop):
    async def main():
        while loop.metrics()["workers"][0]["lingered"] == 0:
            await asyncio.sleep(0.003)  # the other gets the GIL, and does not return it at once
            await asyncio.sleep(0.0001)  # not worth another such wait

    with spinning() as spinner:
        before = spinner.count
        loop.run_until_complete(asyncio.wait_for(main(), 20))
        assert spinner.count > before
    (counts,) = loop.metrics()["workers"]
    assert counts["lingered"] < counts["parks"]
    assert counts["gil_acquisitions"] == counts["parks"] - counts["lingered"]


def counter(loop, name):
    return loop.metrics()["workers"][0][name]


async def find_contention(loop):
    """Until the loop knows that another thread computes."""
    while counter(loop, "lingered") == 0:
        await asyncio.sleep(0.003)
        await asyncio.sleep(0.00002)


@needs_gil
def test_one_wait_that_finds_the_gil_free_does_not_end_it(loop):
    async def main(spinner):
        await find_contention(loop)
        for _ in range(10):
            spinner.may_compute.clear()
            await asyncio.sleep(0.02)  # it rests now, and the GIL is free
            spinner.may_compute.set()
            before = counter(loop, "gil_acquisitions")
            await asyncio.sleep(0.0001)
            assert counter(loop, "gil_acquisitions") == before
            await asyncio.sleep(0.003)

    with spinning() as spinner:
        try:
            loop.run_until_complete(asyncio.wait_for(main(spinner), 20))
        finally:
            spinner.may_compute.set()


@needs_gil
def test_a_short_switch_interval_has_a_short_linger(new_loop):
    loop = new_loop(switch_interval=INTERVAL)

    async def main():
        await find_contention(loop)
        for _ in range(20):
            await asyncio.sleep(0.003)
            before = counter(loop, "gil_acquisitions")
            await asyncio.sleep(0.00002)
            assert counter(loop, "gil_acquisitions") == before

    with spinning():
        loop.run_until_complete(asyncio.wait_for(main(), 20))


@needs_gil
def test_a_server_beside_a_thread_that_computes(loop):
    with spinning() as spinner:
        before = spinner.count
        loop.run_until_complete(serve_a_client())
        assert spinner.count > before


@needs_gil
def test_a_loop_that_never_waits_lets_the_other_compute(loop):
    with spinning() as spinner:
        before = spinner.count
        turn = 0

        def again():
            nonlocal turn
            turn += 1
            if turn % 1000 != 0 or spinner.count < before + 100_000:
                loop.call_soon(again)
            else:
                loop.stop()

        again()
        loop.run_forever()


def test_alone_it_does_not_linger(loop):
    async def main():
        for _ in range(20):
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    assert loop.metrics()["workers"][0]["lingered"] == 0


def test_the_switch_interval_is_the_loops_while_it_runs(new_loop):
    before = sys.getswitchinterval()
    loop = new_loop(switch_interval=INTERVAL)
    assert sys.getswitchinterval() == before

    async def main():
        return sys.getswitchinterval()

    assert loop.run_until_complete(main()) == pytest.approx(INTERVAL)
    assert sys.getswitchinterval() == before
    loop.call_soon(sys.exit, 3)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert sys.getswitchinterval() == before
    with spinning():
        loop.run_until_complete(serve_a_client())


def test_the_switch_interval_of_the_environment(new_loop, monkeypatch):
    monkeypatch.setenv("PYLOOP_SWITCH_INTERVAL", str(INTERVAL))

    async def main():
        return sys.getswitchinterval()

    assert new_loop().run_until_complete(main()) == pytest.approx(INTERVAL)
    assert new_loop(switch_interval=0.002).run_until_complete(main()) == pytest.approx(0.002)


@pytest.mark.parametrize("interval, error", [
    (0, ValueError), (-1, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("1", TypeError),
    (True, TypeError)])
def test_bad_switch_intervals(backend, interval, error):
    with pytest.raises(error, match="switch_interval must be a number of seconds"):
        pyloop.Loop(backend=backend, switch_interval=interval)


def test_the_switch_interval_on_the_command_line(tmp_path, backend):
    (tmp_path / "program.py").write_text("import sys\nasync def main():\n    print(sys.getswitchinterval())\n")
    command = [sys.executable, "-m", "pyloop.run", "program:main", "--backend", backend, "--switch-interval"]
    done = subprocess.run([*command, str(INTERVAL)], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          check=True)
    assert float(done.stdout) == pytest.approx(INTERVAL)
    done = subprocess.run([*command, "0"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "must be a number of seconds" in done.stderr
