"""Parallel mode: strands, and what asyncio promises inside one."""

import asyncio
import collections
import contextvars
import os
import threading

import parallel_kit
import pytest

import pyloop

VARIABLE = contextvars.ContextVar("VARIABLE", default="nothing")


@pytest.fixture(params=[1, 2, 3])
def run(request, backend):
    """run(main()) with 1, 2 and 3 workers; nothing may have been reported."""
    return parallel_kit.checked_run(backend, request.param)


@pytest.fixture
def run2(backend):
    """The same with two workers."""
    def run_main(main, *, debug=False):
        with parallel_kit.parallel_runner(backend, debug=debug) as (runner, reports):
            result = runner.run(main)
        assert reports == []
        return result
    return run_main


async def value(result):
    await asyncio.sleep(0)
    return result


# Making loops.

@pytest.mark.parametrize("workers, error", [(0, ValueError), (65, ValueError), (-1, ValueError), ("2", TypeError),
                                            (True, TypeError), (1.0, TypeError)])
def test_wrong_numbers_of_workers(workers, error):
    with pytest.raises(error, match="workers"):
        pyloop.Loop(parallel=True, workers=workers)


def test_workers_without_parallel():
    with pytest.raises(ValueError, match="parallel=True"):
        pyloop.Loop(workers=2)


def test_workers_attribute(backend):
    for options, workers in (({}, 1), ({"parallel": True, "workers": 3}, 3),
                             ({"parallel": True}, min(os.cpu_count(), 64))):
        loop = pyloop.Loop(backend=backend, **options)
        assert loop.workers == workers
        loop.close()


def test_a_loop_that_never_ran_is_closed():
    loop = pyloop.Loop(parallel=True, workers=3)
    views = loop._other_views
    loop.close()
    loop.close()
    assert loop.is_closed() and all(view.is_closed() for view in views)


def test_run_takes_the_options():
    assert pyloop.run(value(1), parallel=True, workers=2) == 1


def test_no_thread_is_left(backend):
    before = threading.active_count()
    with parallel_kit.parallel_runner(backend, workers=4) as (runner, _):
        assert runner.run(value(1)) == 1
    assert threading.active_count() == before


def test_several_runs_of_one_loop(backend):
    with parallel_kit.parallel_runner(backend) as (runner, reports):
        for i in range(3):
            async def main():
                return await pyloop.spawn(value(i))
            assert runner.run(main()) == i
    assert reports == []


# spawn().

def test_spawn_needs_a_running_loop():
    coro = value(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        pyloop.spawn(coro)
    coro.close()


def test_spawn_wants_a_coroutine(run):
    async def main():
        for wrong in (value, None, 3, asyncio.get_running_loop().create_future()):
            with pytest.raises(TypeError, match="a coroutine was expected"):
                pyloop.spawn(wrong)
    run(main())


def test_spawn_wants_a_context(run):
    async def main():
        coro = value(1)
        with pytest.raises(TypeError, match="a Context was expected"):
            pyloop.spawn(coro, context={})
        coro.close()
    run(main())


def test_spawn_returns_the_result(run):
    async def main():
        task = pyloop.spawn(value("x"), name="N")
        assert isinstance(task, asyncio.Future) and asyncio.isfuture(task)
        assert task.get_loop() is asyncio.get_running_loop()
        assert not task.done() and not task.cancelled()
        with pytest.raises(asyncio.InvalidStateError):
            task.result()
        assert await task == "x"
        assert task.done() and task.result() == "x" and task.exception() is None
        assert await task == "x"
        assert not task.cancel()
    run(main())


def test_spawn_returns_the_exception(run):
    async def fail():
        await asyncio.sleep(0)
        raise KeyError("k")

    async def fail_at_once():
        raise KeyError("k")

    async def main():
        for coro in fail(), fail_at_once():
            task = pyloop.spawn(coro)
            with pytest.raises(KeyError):
                await task
            assert isinstance(task.exception(), KeyError)
    run(main())


def test_the_outcome_cannot_be_set(run):
    async def main():
        task = pyloop.spawn(value(1))
        for method in task.set_result, task.set_exception:
            with pytest.raises(RuntimeError, match="spawned task"):
                method(ValueError())
        await task
    run(main())


def test_strands_that_last_are_shared_out(run2):
    async def last(begun, end):
        begun.release()
        await end.wait()
        return threading.get_ident()

    async def main():
        begun, end = pyloop.sync.Semaphore(0), pyloop.sync.Event()
        strands = []
        for _ in range(20):
            strands += [pyloop.spawn(last(begun, end)) for _ in range(4)]
            for _ in range(4):
                await begun.acquire()
        end.set()
        return await asyncio.gather(*strands)

    counts = collections.Counter(run2(main()))
    assert len(counts) == 2
    assert min(counts.values()) >= 12  # of 80, also if one thread never came to run


def test_names(run):
    async def name():
        return asyncio.current_task().get_name()

    async def main():
        named = pyloop.spawn(name(), name="N")
        assert named.get_name() == "N"
        assert await named == "N" and named.get_name() == "N"
        asked = pyloop.spawn(name())
        early = asked.get_name()
        assert early.startswith("Task-") or early == "None"
        unasked = pyloop.spawn(name())
        assert (await unasked) == unasked.get_name()
        await asked
    run(main())


def test_context(run):
    async def change():
        seen = VARIABLE.get()
        VARIABLE.set("changed")
        await asyncio.sleep(0)
        return seen, VARIABLE.get()

    async def main():
        VARIABLE.set("main's")
        assert await pyloop.spawn(change()) == ("main's", "changed")
        assert VARIABLE.get() == "main's"
        context = contextvars.Context()
        task = pyloop.spawn(change(), context=context)
        assert task.get_context() is context
        assert await task == ("nothing", "changed")
        assert context[VARIABLE] == "changed"
    run(main())


def test_done_callbacks_run_where_they_were_added(run):
    async def main():
        called = asyncio.get_running_loop().create_future()
        thread = threading.get_ident()
        task = pyloop.spawn(value(1))
        task.add_done_callback(lambda task: called.set_result((task, threading.get_ident())))
        assert await called == (task, thread)
    run(main())


def test_many_wait_for_one(run):
    async def main():
        task = pyloop.spawn(value(7))

        async def wait():
            return await task
        assert await asyncio.gather(*(pyloop.spawn(wait()) for _ in range(10))) == [7] * 10
    run(main())


def test_asyncio_helpers_take_it(run):
    async def main():
        spawn = pyloop.spawn
        assert await asyncio.gather(spawn(value(1)), value(2)) == [1, 2]
        assert await asyncio.wait_for(spawn(value(3)), 10) == 3
        assert await asyncio.shield(spawn(value(4))) == 4
        done, pending = await asyncio.wait([spawn(value(5))])
        assert [task.result() for task in done] == [5] and not pending
        for first in asyncio.as_completed([spawn(value(6))]):
            assert await first == 6
        assert asyncio.ensure_future(task := spawn(value(7))) is task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task := spawn(asyncio.sleep(3600)), 0.01)
        assert task.cancelled()
    run(main())


def test_nobody_has_to_keep_it(run):
    async def main():
        done = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        async def work():
            await asyncio.sleep(0.01)
            loop.call_soon_threadsafe(done.set_result, "done")
        pyloop.spawn(work())
        import gc
        gc.collect()
        assert await asyncio.wait_for(done, 10) == "done"
    run(main())


# Cancelling.

def test_cancel_before_it_begins(backend):
    """With one worker nothing begins before we wait."""
    ran = []

    async def never():
        ran.append(1)

    async def main():
        task = pyloop.spawn(never())
        assert task.cancel("why")
        assert not task.done()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("why",)
        assert task.cancelled() and not task.cancel()
    with parallel_kit.parallel_runner(backend, workers=1) as (runner, reports):
        runner.run(main())
    assert ran == [] and reports == []


def test_cancel_while_it_waits(run):
    async def main():
        begun = threading.Event()
        cleaned = []

        async def wait():
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0)
                cleaned.append(asyncio.current_task().cancelling())
        task = pyloop.spawn(wait())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        assert task.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("why",)
        assert cleaned == [1] and task.cancelled()
    run(main())


def test_cancellation_can_be_refused(run):
    async def main():
        begun = threading.Event()

        async def stubborn():
            begun.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return "no"
        task = pyloop.spawn(stubborn())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        assert await task == "no"
    run(main())


def test_cancelling_the_waiter_cancels_what_it_waits_for(run):
    async def main():
        inner = pyloop.spawn(asyncio.sleep(3600))

        async def wait():
            await inner
        outer = pyloop.spawn(wait())
        await asyncio.sleep(0.01)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        with pytest.raises(asyncio.CancelledError):
            await inner
        assert inner.cancelled() and outer.cancelled()
    run(main())


# Inside a strand.

def test_a_strand_stays_where_it_is(run):
    def place():
        return threading.get_ident(), asyncio.get_running_loop(), asyncio.current_task()

    async def child(expected):
        thread, loop, parent = expected
        for _ in range(3):
            await asyncio.sleep(0)
            assert place()[:2] == (thread, loop)
        assert asyncio.current_task() is not parent

    async def strand():
        here = place()
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(child(here))
        await asyncio.gather(*(child(here) for _ in range(5)))
        called = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.001, lambda: called.set_result(threading.get_ident()))
        assert await called == here[0]
        assert place() == here
        assert here[1].is_running()

    async def main():
        await asyncio.gather(*(pyloop.spawn(strand()) for _ in range(20)))
    run(main())


def test_timeout_and_shield_in_a_strand(run):
    async def strand():
        inner = asyncio.create_task(value(1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(3600)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.sleep(3600)), 0.01)
        return await asyncio.shield(inner)

    async def main():
        assert await asyncio.gather(*(pyloop.spawn(strand()) for _ in range(5))) == [1] * 5
    run(main())


def test_streams_in_a_strand(run):
    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def strand(i):
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"%d\n" % i)
            line = await reader.read()
            writer.close()
            await writer.wait_closed()
        return int(line)

    async def main():
        assert await asyncio.gather(*(pyloop.spawn(strand(i)) for i in range(6))) == list(range(6))
    run(main())


def test_threads_of_executors(run):
    async def strand():
        loop = asyncio.get_running_loop()
        name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
        assert name.startswith("asyncio")
        return await asyncio.to_thread(lambda: 5)

    async def main():
        assert await asyncio.gather(*(pyloop.spawn(strand()) for _ in range(5))) == [5] * 5
    run(main())


def test_strands_run_at_the_same_time(run2):
    """Two steps that wait for each other: only two threads can do that."""
    async def main():
        barrier = threading.Barrier(2)

        async def meet():
            barrier.wait(30)
            return threading.get_ident()
        assert len(set(await asyncio.gather(pyloop.spawn(meet()), pyloop.spawn(meet())))) == 2
    run2(main())


def test_serial_mode_has_spawn_too(backend):
    async def main():
        task = pyloop.spawn(value(1), name="N", context=contextvars.copy_context())
        assert isinstance(task, asyncio.Task) and task.get_name() == "N"
        return await task
    assert pyloop.run(main(), backend=backend) == 1
    assert asyncio.run(main()) == 1
