"""Parallel mode: futures, tasks and calls from one view to another."""

import asyncio
import threading

import parallel_kit
import pytest

import pyloop


WORKERS = 3
STRANDS = 40


@pytest.fixture
def run(backend):
    """run(main()) with two workers; nothing may have been reported."""
    def run_main(main, *, debug=False, workers=2):
        with parallel_kit.parallel_runner(backend, debug=debug, workers=workers) as (runner, reports):
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


async def elsewhere(function):
    """The function's result in each of the other views, called at nearly the same time; and the threads it ran in."""
    async def call():
        return function(), threading.get_ident()
    found = await asyncio.gather(*[parallel_kit.there(call(), number) for number in range(WORKERS - 1)])
    results, threads = zip(*found, strict=True)
    assert len({threading.get_ident(), *threads}) == WORKERS
    return list(results), set(threads)


def test_a_spawned_task_cancelled_elsewhere(run):
    """Before it began and while it waits; from views that neither spawned it nor, in part, run it."""
    async def main():
        begun = set()

        async def endless(event):
            begun.add(threading.get_ident())
            event.set()
            await asyncio.sleep(3600)

        for _ in range(20):
            event = pyloop.sync.Event()
            task = pyloop.spawn(endless(event))
            await event.wait()
            results, _ = await elsewhere(lambda task=task: task.cancel("why"))
            assert results.count(True) >= 1
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert caught.value.args == ("why",)
            results, _ = await elsewhere(lambda task=task: (task.cancelled(), task.done(), task.cancel()))
            assert results == [(True, True, False)] * (WORKERS - 1)
        assert begun
        for _ in range(20):  # begun or not, as it happens
            task = pyloop.spawn(endless(pyloop.sync.Event()))
            await elsewhere(task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
    run(main(), workers=WORKERS)


def test_a_spawned_task_asked_elsewhere(run):
    async def main():
        async def wait_for(event, outcome):
            await event.wait()
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        def ask(task, method):
            try:
                return getattr(task, method)()
            except Exception as error:
                return error

        for outcome in "x", KeyError("y"):
            event = pyloop.sync.Event()
            task = pyloop.spawn(wait_for(event, outcome), name="T")
            for method in "result", "exception":
                results, _ = await elsewhere(lambda task=task, method=method: ask(task, method))
                assert [type(result) for result in results] == [asyncio.InvalidStateError] * (WORKERS - 1)
            assert (await elsewhere(lambda task=task: (task.done(), task.cancelled(), task.get_name())))[0] == [
                (False, False, "T")] * (WORKERS - 1)
            event.set()
            await asyncio.wait([task])
            assert (await elsewhere(lambda task=task: ask(task, "result")))[0] == [outcome] * (WORKERS - 1)
            is_failed = isinstance(outcome, Exception)
            assert (await elsewhere(lambda task=task: ask(task, "exception")))[0] == [
                outcome if is_failed else None] * (WORKERS - 1)
            assert (await elsewhere(task.done))[0] == [True] * (WORKERS - 1)
    run(main(), workers=WORKERS)


def test_callbacks_of_a_spawned_task_run_where_they_were_added(run):
    async def main():
        called = []
        event = pyloop.sync.Event()
        task = pyloop.spawn(event.wait())

        def note(future):
            assert future is task and future.done()
            called.append(threading.get_ident())

        def unwanted(future):
            called.append("unwanted")

        def add():
            task.add_done_callback(unwanted)
            task.add_done_callback(note)
            return task.remove_done_callback(unwanted)
        results, threads = await elsewhere(add)
        # The second may remove the callback of the first, too: they are equal.
        assert sum(results) == WORKERS - 1 and called == []
        event.set()
        assert await task is True
        await elsewhere(int)  # each of the other views has run what was queued before
        assert sorted(called) == sorted(threads)
        called.clear()
        _, threads = await elsewhere(lambda: task.add_done_callback(note))
        await elsewhere(int)
        assert sorted(called) == sorted(threads)
    run(main(), workers=WORKERS)


def test_a_spawned_task_awaited_by_strands_elsewhere(run):
    async def main():
        event = pyloop.sync.Event()
        task = pyloop.spawn(event.wait())

        async def wait():
            return await task
        waiters = [parallel_kit.there(wait(), number) for number in range(WORKERS - 1)]
        waiters += [pyloop.spawn(wait()) for _ in range(10)]
        await asyncio.sleep(0)
        event.set()
        assert await asyncio.gather(*waiters) == [True] * len(waiters)
    run(main(), workers=WORKERS)


def test_all_tasks_are_those_of_the_view(run):
    """Strands on one thread see each other's tasks and no others, wherever the main coroutine is."""
    async def main():
        all_here = [pyloop.sync.Event(), pyloop.sync.Event()]
        homes, seen = {asyncio.current_task(): threading.get_ident()}, {}

        async def strand():
            assert asyncio.current_task() in asyncio.all_tasks()
            homes[asyncio.current_task()] = threading.get_ident()
            if len(homes) == 1 + STRANDS:
                all_here[0].set()
            await all_here[0].wait()
            seen[asyncio.current_task()] = asyncio.all_tasks()
            if len(seen) == STRANDS:
                all_here[1].set()
            await all_here[1].wait()
        await asyncio.gather(*[pyloop.spawn(strand()) for _ in range(STRANDS)])
        assert len(set(homes.values())) > 1
        for task, found in seen.items():
            assert found == {other for other, home in homes.items() if home == homes[task]}
        assert len(seen) == STRANDS
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
