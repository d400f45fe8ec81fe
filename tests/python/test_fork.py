"""fork(): the child cannot use, and cannot hurt, the loops of its parent."""

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
import warnings

import pytest

import pyloop

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def in_child(work):
    """Runs work() in a forked child; the test fails unless it returns."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(20)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


async def use_everything(backend):
    """A small program on a fresh loop."""
    loop = asyncio.get_running_loop()
    assert loop.backend == backend
    read, write = os.pipe()
    future = loop.create_future()
    loop.add_reader(read, lambda: future.done() or future.set_result(os.read(read, 1)))
    loop.call_later(0.01, os.write, write, b"x")
    assert await future == b"x"
    loop.remove_reader(read)
    os.close(read)
    os.close(write)


def test_child_makes_a_new_loop(loop, backend):
    read, write = os.pipe()
    loop.add_reader(read, lambda: (os.read(read, 1), loop.stop()))
    loop.call_later(1000, print)
    loop.run_until_complete(asyncio.sleep(0))

    def work():
        with pytest.raises(RuntimeError, match="made before fork"):
            loop.call_soon(print)
        with pytest.raises(RuntimeError, match="made before fork"):
            loop.call_soon_threadsafe(print)
        with pytest.raises(RuntimeError, match="made before fork"):
            loop.call_later(1, print)
        with pytest.raises(RuntimeError, match="made before fork"):
            loop.add_reader(read, print)
        with pytest.raises(RuntimeError, match="made before fork"):
            loop.run_forever()
        assert loop.remove_reader(read) is False
        assert loop.is_closed() and loop.backend is None and loop.time() > 0
        loop.close()
        loop.stop()
        repr(loop)
        pyloop.run(use_everything(backend), backend=backend)

    in_child(work)
    os.write(write, b"x")  # the parent's loop is whole
    loop.run_forever()
    loop.remove_reader(read)
    os.close(read)
    os.close(write)


def test_fork_in_a_running_loop(run, backend):
    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, print)

        def work():
            assert asyncio._get_running_loop() is None
            assert not loop.is_running()
            assert signal.set_wakeup_fd(-1) == -1
            pyloop.run(use_everything(backend), backend=backend)

        in_child(work)
        await use_everything(backend)
        loop.remove_signal_handler(signal.SIGUSR1)

    run(main())


def test_child_that_returns_into_run_forever(loop):
    """What multiprocessing never does: the child's copy of the running loop ends with an error."""
    parent = os.getpid()
    child = None

    def fork():
        nonlocal child
        child = os.fork()
        if child == 0:
            loop.call_soon  # still there, but of no use
        else:
            loop.stop()

    loop.call_soon(fork)
    loop.call_soon(lambda: None)
    try:
        loop.run_forever()
    except RuntimeError as error:
        assert os.getpid() != parent
        os._exit(0 if "made before fork" in str(error) else 1)
    finally:
        if os.getpid() != parent:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_inherited_loop_dies_quietly(backend):
    def make():
        loop = pyloop.Loop(backend=backend)
        loop.call_soon(print)
        loop.call_later(1000, print)
        loop.run_until_complete(asyncio.sleep(0))
        return loop

    loop = make()

    def work():
        nonlocal loop
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del loop
            gc.collect()
        pyloop.run(use_everything(backend), backend=backend)

    in_child(work)
    loop.close()


def test_inherited_transports_are_left_alone(run, backend):
    async def main():
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        in_child(lambda: pyloop.run(use_everything(backend), backend=backend))
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_grandchild(backend):
    def work():
        loop = pyloop.Loop(backend=backend)
        loop.run_until_complete(use_everything(backend))
        in_child(lambda: pyloop.run(use_everything(backend), backend=backend))
        loop.run_until_complete(use_everything(backend))
        loop.close()

    in_child(work)


def multiprocessing_target(backend, queue):
    queue.put(pyloop.run(asyncio.sleep(0, "from the child"), backend=backend))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(run, backend, method):
    context = multiprocessing.get_context(method)

    async def main():
        queue = context.SimpleQueue()
        process = context.Process(target=multiprocessing_target, args=(backend, queue))
        process.start()
        assert await asyncio.get_running_loop().run_in_executor(None, queue.get) == "from the child"
        process.join(20)
        assert process.exitcode == 0

    run(main())


def test_fork_in_a_callback(loop, backend):
    loop.call_soon(in_child, lambda: pyloop.run(use_everything(backend), backend=backend))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.run_until_complete(use_everything(backend))


def test_fork_from_another_thread(run, backend):
    """While the loop sleeps, and while it is busy: the thread is the child's main thread."""
    def work():
        assert asyncio._get_running_loop() is None
        pyloop.run(use_everything(backend), backend=backend)

    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, in_child, work)
        forking = loop.run_in_executor(None, in_child, work)
        while not forking.done():
            await asyncio.sleep(0)
        await forking
        await use_everything(backend)

    run(main())


def test_exec_closes_everything(backend):
    """Nothing of a loop leaks into a program that is executed."""
    code = "import os; print(len(os.listdir('/proc/self/fd')))"

    def count():
        return subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True,
                              text=True).stdout

    before = count()
    loop = pyloop.Loop(backend=backend)
    loop.run_until_complete(asyncio.sleep(0))
    assert count() == before
    loop.close()
