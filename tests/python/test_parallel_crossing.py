"""Parallel mode: futures, tasks and calls from one view to another."""

import asyncio
import threading

import parallel_kit
import pytest


@pytest.fixture
def run(backend):
    """run(main()) with two workers; nothing may have been reported."""
    def run_main(main, *, debug=False):
        with parallel_kit.parallel_runner(backend, debug=debug) as (runner, reports):
            result = runner.run(main)
        assert reports == []
        return result
    return run_main


async def value(result):
    await asyncio.sleep(0)
    return result


def test_a_future_completed_elsewhere(run):
    async def main():
        thread = threading.get_ident()
        future = asyncio.get_running_loop().create_future()

        async def complete():
            assert threading.get_ident() != thread
            future.set_result("x")
        await parallel_kit.there(complete())
        assert await future == "x"
    run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_a_future_awaited_elsewhere(run, debug):
    async def main():
        thread = threading.get_ident()
        for outcome in "result", "exception", "cancel":
            future = asyncio.get_running_loop().create_future()
            waiting = threading.Event()

            async def wait():
                asyncio.get_running_loop().call_soon(waiting.set)
                try:
                    return await future
                except (KeyError, asyncio.CancelledError) as error:
                    return type(error)
                finally:
                    assert threading.get_ident() != thread
            waiter = parallel_kit.there(wait())
            while not waiting.is_set():
                await asyncio.sleep(0.001)
            if outcome == "result":
                future.set_result(str)
            elif outcome == "exception":
                future.set_exception(KeyError())
            else:
                future.cancel()
            expected = {"result": str, "exception": KeyError, "cancel": asyncio.CancelledError}[outcome]
            assert await waiter is expected
    run(main(), debug=debug)


def test_a_future_done_already_is_awaited_elsewhere(run):
    async def main():
        future = asyncio.get_running_loop().create_future()
        future.set_result(3)

        async def wait():
            return await future
        assert await parallel_kit.there(wait()) == 3
    run(main())


def test_a_waiter_elsewhere_is_cancelled(run):
    async def main():
        future = asyncio.get_running_loop().create_future()

        async def wait():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await future
        await parallel_kit.there(wait())
        with pytest.raises(asyncio.CancelledError):
            await future
    run(main())


def test_callbacks_of_other_views(run):
    async def main():
        future = asyncio.get_running_loop().create_future()
        called = []

        def note(future):
            called.append((threading.get_ident(), future))

        def unwanted(future):
            called.append("unwanted")

        async def add():
            future.add_done_callback(note)
            future.add_done_callback(unwanted)
            assert future.remove_done_callback(unwanted) == (0 if future.done() else 1)
            return threading.get_ident()
        thread = await parallel_kit.there(add())
        assert [callback for callback, _ in future._callbacks] == [note]
        future.set_result(None)
        await parallel_kit.there(value(None))
        late = await parallel_kit.there(add())
        await parallel_kit.there(value(None))
        assert called == [(thread, future), (late, future), "unwanted"]  # too late to remove
    run(main())


def test_a_task_of_another_view(run):
    async def main():
        async def make():
            return asyncio.create_task(asyncio.sleep(3600, "never"), name="T")
        task = await parallel_kit.there(make())
        assert task.get_name() == "T" and not task.done()
        assert task.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("why",)
        assert task.cancelled() and not task.cancel()

        async def make_short():
            return asyncio.create_task(value(4))
        assert await (await parallel_kit.there(make_short())) == 4
    run(main())


def test_futures_of_asyncio_do_not_cross(run):
    async def main():
        future = asyncio.futures._PyFuture(loop=asyncio.get_running_loop())

        async def wait():
            with pytest.raises(RuntimeError, match="attached to a different loop"):
                await future
        await parallel_kit.there(wait())
    run(main())


def test_locks_of_asyncio_do_not_cross(run):
    async def main():
        lock = asyncio.Lock()
        await lock.acquire()
        waiter = asyncio.create_task(lock.acquire())
        await asyncio.sleep(0)

        async def wait():
            with pytest.raises(RuntimeError, match="different event loop"):
                await lock.acquire()
        await parallel_kit.there(wait())
        lock.release()
        await waiter
    run(main())


def test_scheduling_in_another_view(run):
    async def main():
        loop = asyncio.get_running_loop()
        called = []

        async def schedule():
            done = threading.Event()
            loop.call_soon_threadsafe(called.append, "soon")
            loop.call_later(0.005, called.append, "later")
            loop.call_at(loop.time() + 0.01, done.set)
            cancelled = loop.call_later(0.001, called.append, "cancelled")
            cancelled.cancel()
            while not done.is_set():
                await asyncio.sleep(0.001)
        await parallel_kit.there(schedule())
        assert called == ["soon", "later"]
    run(main())
