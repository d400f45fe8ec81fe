"""run_in_executor() with the default executor."""

import asyncio
import concurrent.futures
import threading

import pytest

import pyloop


def test_it_is_asyncios_kind_of_executor(loop):
    name = loop.run_until_complete(loop.run_in_executor(None, lambda: threading.current_thread().name))
    assert isinstance(loop._default_executor, concurrent.futures.ThreadPoolExecutor)
    assert name.startswith("asyncio_")


def test_results_and_exceptions(run):
    def fail(exception):
        raise exception

    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, divmod, 7, 3) == (2, 1)
        for exception, seen in ((ValueError("bad"), ValueError), (SystemExit(3), SystemExit),
                                (concurrent.futures.CancelledError(), asyncio.CancelledError),
                                (concurrent.futures.TimeoutError(), asyncio.TimeoutError)):
            with pytest.raises(seen) as raised:
                await loop.run_in_executor(None, fail, exception)
            assert raised.value.args == exception.args
        results = await asyncio.gather(*[loop.run_in_executor(None, pow, n, 2) for n in range(200)])
        assert results == [n * n for n in range(200)]

    run(main())


def test_one_after_the_other_needs_one_thread(run):
    """A worker counts as idle before the loop hears of its result."""

    async def main():
        loop = asyncio.get_running_loop()
        return {await loop.run_in_executor(None, threading.get_ident) for _ in range(100)}

    assert len(run(main())) == 1


def test_a_result_does_not_wait_for_the_workers_next_item(run):
    """More items than threads: those that are queued behind the first end only after its result was seen."""

    async def main():
        loop = asyncio.get_running_loop()
        seen = threading.Event()
        first = loop.run_in_executor(None, int)
        first.add_done_callback(lambda _: seen.set())
        others = [loop.run_in_executor(None, seen.wait, 10) for _ in range(100)]
        assert all(await asyncio.gather(*others))

    run(main())


def test_cancelled_before_it_runs_it_never_does(run):
    async def main():
        loop = asyncio.get_running_loop()
        ran = []
        gate = threading.Event()
        blocked = [loop.run_in_executor(None, gate.wait, 10)]
        while len(blocked) <= loop._default_executor._max_workers:
            blocked.append(loop.run_in_executor(None, gate.wait, 10))
        last = loop.run_in_executor(None, ran.append, 1)
        assert last.cancel()
        await asyncio.sleep(0)  # the callback that cancels it in the executor
        gate.set()
        await asyncio.gather(*blocked)
        await loop.shutdown_default_executor()
        assert ran == []

    run(main())


def test_shutdown_cancels_what_is_queued(loop):
    gate = threading.Event()
    blocked = [loop.run_in_executor(None, gate.wait, 10)]
    while len(blocked) < loop._default_executor._max_workers:
        blocked.append(loop.run_in_executor(None, gate.wait, 10))
    queued = loop.run_in_executor(None, int)
    loop._default_executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(queued)
    gate.set()
    assert all(loop.run_until_complete(asyncio.gather(*blocked)))


def test_the_loop_is_closed_before_the_end(backend, caplog):
    loop = pyloop.Loop(backend=backend)
    gate = threading.Event()
    future = loop.run_in_executor(None, gate.wait, 10)
    threads = list(loop._default_executor._threads)
    loop.close()
    gate.set()
    for thread in threads:
        thread.join()
    assert not future.done()
    assert not caplog.records


def test_a_loop_in_a_worker(run, backend):
    async def inner():
        return await asyncio.get_running_loop().run_in_executor(None, threading.get_ident)

    def work():
        loop = pyloop.Loop(backend=backend)
        try:
            loop.set_default_executor(outer._default_executor)
            return threading.get_ident(), loop.run_until_complete(inner())
        finally:
            loop._default_executor = None  # the outer loop's
            loop.close()

    async def main():
        nonlocal outer
        outer = asyncio.get_running_loop()
        here, there = await outer.run_in_executor(None, work)
        assert here != there

    outer = None
    run(main())


def test_other_executors_and_checks(loop):
    with concurrent.futures.ThreadPoolExecutor(1, "other") as executor:
        name = loop.run_until_complete(loop.run_in_executor(executor, lambda: threading.current_thread().name))
        assert name == "other_0"
        loop.set_default_executor(executor)
        assert loop.run_until_complete(loop.run_in_executor(None, int)) == 0
    loop._default_executor = None
    loop.set_debug(True)

    async def coroutine_function():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
        loop.run_in_executor(None, coroutine_function)
    loop.set_debug(False)
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        loop.run_in_executor(None, int)
