"""PYLOOP_AUDIT=1 names what two strands touch, with both stacks, and is silent about sound programs."""

import os
import subprocess
import sys
import textwrap

import pytest

needs_monitoring = pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is of CPython 3.12")

PROLOGUE = """
import asyncio, threading, pyloop
from pyloop import _audit

def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
"""


def run(program, backend):
    """The error output of a program under the audit."""
    env = {**os.environ, "PYLOOP_AUDIT": "1", "PYLOOP_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", PROLOGUE + textwrap.dedent(program)], env=env,
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@needs_monitoring
def test_future_completed_from_another_thread(backend):
    found = run("""
        async def main():
            future = asyncio.get_running_loop().create_future()
            future.add_done_callback(print)
            def complete_it():
                future.set_result(1)
            in_thread(complete_it)
        pyloop.run(main())
        assert len(_audit.start().reports) == 1
        """, backend)
    assert "Future.set_result() on <Future" in found
    first, _, now = found.partition("now used by")
    assert "add_done_callback" not in now
    assert ", in main" in first
    assert ", in complete_it" in now


@needs_monitoring
@pytest.mark.parametrize("block", ["""
            async with lock:
                pass
    """, """
            await lock.__aenter__()
            await lock.__aexit__(None, None, None)
    """], ids=["with", "calls"])  # CPython 3.14 shows the calls that `with` makes, as if they were written like this
def test_lock_of_two_loops(backend, block):
    """Uncontended, asyncio's own check of the loop does not see it."""
    found = run(f"""
        lock = asyncio.Lock()
        async def use_the_lock():
{block}
        pyloop.run(use_the_lock())
        in_thread(lambda: pyloop.run(use_the_lock()))
        """, backend)
    assert found.count("by another strand than its own") == 1, found
    assert "Lock.acquire()" in found
    assert ", in use_the_lock" in found


AWAITED_BY_TWO = """
    waiting = 0

    async def wait_for_it(future):
        global waiting
        waiting += 1
        return await future

    async def strand(future):
        return await wait_for_it(future)

    async def main():
        future = asyncio.Future()
        first = pyloop.spawn(strand(future), name="first")
        second = pyloop.spawn(strand(future), name="second")
        while waiting < 2:
            await asyncio.sleep(0)
        future.set_result(7)
        assert [await first, await second] == [7, 7]
    """


def expect_two_awaits(found):
    """One report, with the lines of both coroutines in both stacks."""
    assert found.count("by another strand") == 1, found
    assert "await of <Future pending" in found
    first, _, now = found.partition("now used by")
    for stack, name in ((first, "first"), (now, "second")):
        assert f"<Strand {name}> in thread" in stack
        assert stack.index(", in strand") < stack.index(", in wait_for_it"), found


@needs_monitoring
def test_future_of_asyncio_awaited_by_two_strands_of_one_worker(backend):
    """It works by chance: with two workers asyncio refuses, or the wake-up is lost."""
    expect_two_awaits(run(AWAITED_BY_TWO + """
    pyloop.run(main(), parallel=True, workers=1)
    """, backend))


@needs_monitoring
def test_future_awaited_by_tasks_of_asyncio(backend):
    """What is awaited is seen whoever steps the coroutine."""
    expect_two_awaits(run(AWAITED_BY_TWO + """
    loop = pyloop.Loop(native_tasks=False)
    loop.run_until_complete(main())
    loop.close()
    """, backend))


@needs_monitoring
@pytest.mark.parametrize("options", ["", "native_tasks=False", "parallel=True, workers=1"])
def test_what_strands_share_by_right_may_be_awaited(backend, options):
    """pyloop's futures, and what spawn() returns, though its coroutine uses it, too."""
    found = run(f"""
        import contextlib

        events = []

        @contextlib.contextmanager
        def lent():
            yield events[0]  # a generator that awaits nothing

        async def use_own_task():
            async with asyncio.timeout(10):
                await asyncio.sleep(0)
            asyncio.current_task().get_coro()
            with lent():
                return 1

        async def wait_for(future):
            return await future

        async def main(is_native):
            events.append(asyncio.Event())
            spawned = pyloop.spawn(use_own_task())
            assert await spawned + spawned.result() == 2
            with lent():
                pass
            if is_native:
                future = asyncio.get_running_loop().create_future()
                waiting = [pyloop.spawn(wait_for(future)) for _ in range(2)]
                await asyncio.sleep(0)
                future.set_result(3)
                assert [await one for one in waiting] == [3, 3]

        loop = pyloop.Loop({options})
        loop.run_until_complete(main({"native_tasks=False" not in options}))
        loop.close()
        """, backend)
    assert found == ""


@needs_monitoring
def test_transport_written_from_another_thread(backend):
    found = run("""
        async def main():
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"here")
            in_thread(lambda: writer.transport.write(b"there"))
            writer.close()
            server.close()
        pyloop.run(main())
        """, backend)
    assert "StreamTransport.write() on" in found


@needs_monitoring
def test_strands_of_one_loop(backend):
    """What a strand creates belongs to it."""
    found = run("""
        shared, own = None, None
        async def child(event):
            event.set()
        async def strand(name):
            _audit.strand_variable.set(_audit.Strand(name))
            event = asyncio.Event()
            await asyncio.create_task(child(event))
            assert event.is_set()
            shared.put_nowait(name)
        async def main():
            global shared
            shared = asyncio.Queue()
            await asyncio.gather(strand("one"), strand("two"))
        pyloop.run(main())
        """, backend)
    assert found.count("by another strand") == 1, found
    assert "Queue.put_nowait()" in found
    assert "<Strand one>" in found
    assert "<Strand two>" in found


@needs_monitoring
def test_strands_of_parallel_mode(backend):
    """An asyncio primitive used by two of them; pyloop's own futures and tasks are made for it."""
    found = run("""
        counts, lock = [], None
        async def with_lock():
            await lock.acquire()  # uncontended, so asyncio itself does not object
            lock.release()
        async def with_future(future, value):
            own = asyncio.Event()
            asyncio.get_running_loop().call_soon(own.set)
            await own.wait()
            if not future.done():
                future.set_result(value)
        async def main():
            global lock
            lock = asyncio.Lock()
            future = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda _: None)
            await asyncio.gather(*[pyloop.spawn(with_future(future, 1), name=f"future {n}") for n in range(1)])
            assert await future == 1
            await pyloop.spawn(with_lock(), name="first")
            await pyloop.spawn(with_lock(), name="second")
        pyloop.run(main(), parallel=True, workers=2)
        """, backend)
    assert found.count("by another strand") == 1, found
    assert "Lock.acquire()" in found
    assert "<Strand first>" in found
    assert "<Strand second>" in found


@needs_monitoring
def test_sound_program_is_left_alone(backend):
    found = run("""
        import concurrent.futures
        queue = asyncio.Queue()
        queue.put_nowait(0)  # made and used before the loop runs
        shared = pyloop.sync.Lock()

        async def echo(reader, writer):
            writer.write(await reader.read(100))
            await writer.drain()
            writer.close()

        async def use_shared():
            async with shared:
                await asyncio.sleep(0)

        async def main():
            await queue.get()
            loop = asyncio.get_running_loop()
            await asyncio.to_thread(int)
            await loop.run_in_executor(None, int)
            future = loop.create_future()
            in_thread(lambda: loop.call_soon_threadsafe(future.set_result, 1))
            await future
            done = await asyncio.to_thread(
                lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0, 7), loop).result())
            assert done == 7
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            assert await reader.read() == b"x"
            writer.close()
            server.close()
            async with asyncio.TaskGroup() as group, asyncio.timeout(10):
                group.create_task(use_shared())
                thread = threading.Thread(target=lambda: pyloop.run(use_shared()))
                thread.start()
                await asyncio.to_thread(thread.join)
        for _ in range(2):
            queue.put_nowait(0)
            pyloop.run(main())
            queue = asyncio.Queue()
        """, backend)
    assert found == ""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="works from CPython 3.12")
def test_older_versions_say_that_they_cannot():
    done = subprocess.run([sys.executable, "-c", "import pyloop"], env={**os.environ, "PYLOOP_AUDIT": "1"},
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: PYLOOP_AUDIT needs CPython 3.12 or later (sys.monitoring)")
