"""Parallel mode: how it ends."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref

import parallel_kit
import pytest

import pyloop


async def value(result):
    await asyncio.sleep(0)
    return result


def test_what_runs_at_the_end_is_cancelled(backend):
    ended = []

    async def endless(i):
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append(i)

    async def with_child(i):
        child = asyncio.create_task(endless(i + 100))
        await endless(i)
        await child

    async def main():
        for i in range(6):
            pyloop.spawn(endless(i) if i % 2 else with_child(i))
        await asyncio.sleep(0.02)
    with parallel_kit.parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert sorted(ended) == [0, 1, 2, 3, 4, 5, 100, 102, 104] and reports == []


def test_spawning_at_the_end_is_refused_softly(backend):
    ran = []

    async def late():
        ran.append("late")

    async def endless():
        try:
            await asyncio.sleep(3600)
        finally:
            task = pyloop.spawn(late())
            with pytest.raises(asyncio.CancelledError):
                await task
            ran.append("cancelled")

    async def main():
        await parallel_kit.there(value(None))
        asyncio.run_coroutine_threadsafe(endless(), asyncio.get_running_loop()._other_views[0])
        await asyncio.sleep(0.02)
    with parallel_kit.parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert ran == ["cancelled"] and reports == []


def test_exceptions_at_the_end_are_reported(backend):
    async def fail_late():
        try:
            await asyncio.sleep(3600)
        finally:
            raise KeyError("late")

    async def main():
        asyncio.run_coroutine_threadsafe(fail_late(), asyncio.get_running_loop()._other_views[0])
        await asyncio.sleep(0.02)
    with parallel_kit.parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert [type(report["exception"]) for report in reports] == [KeyError]
    assert "shutdown" in reports[0]["message"]


def test_unretrieved_exceptions_are_reported(backend):
    async def fail():
        raise KeyError("lost")

    async def main():
        pyloop.spawn(fail())
        await asyncio.sleep(0.02)
    with parallel_kit.parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert [report["message"] for report in reports] == ["SpawnedTask exception was never retrieved"]


def test_callbacks_that_fail_in_other_views_are_reported(backend):
    async def fail():
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.01)

    async def main():
        await parallel_kit.there(fail())
    with parallel_kit.parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]


def test_generators_of_other_views_are_closed(backend):
    closed = []

    async def generate():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(threading.get_ident())

    kept = []

    async def use():
        kept.append(generate())
        assert await kept[0].__anext__() == 1
        return threading.get_ident()

    async def main():
        return await parallel_kit.there(use())
    with parallel_kit.parallel_runner(backend) as (runner, _):
        thread = runner.run(main())
    assert closed == [thread]


@pytest.mark.parametrize("at_once", [True, False])
def test_system_exit_leaves_the_program(backend, at_once):
    async def leave():
        if not at_once:
            await asyncio.sleep(0)
        raise SystemExit(3)

    async def main():
        parallel_kit.there(leave())
        await asyncio.sleep(3600)
    with pytest.raises(SystemExit) as caught:
        with parallel_kit.parallel_runner(backend) as (runner, _):
            runner.run(main())
    assert caught.value.code == 3


def test_stop_from_another_view(backend):
    loop = pyloop.Loop(backend=backend, parallel=True, workers=2)

    async def stop():
        asyncio.get_running_loop().stop()
    loop.call_soon(lambda: asyncio.run_coroutine_threadsafe(stop(), loop._other_views[0]))
    loop.run_forever()
    loop.close()


def test_close_without_an_orderly_end(backend):
    """As with asyncio: what is pending is destroyed, and said so."""
    reports = []
    loop = pyloop.Loop(backend=backend, parallel=True, workers=2)
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))

    async def main():
        parallel_kit.there(asyncio.sleep(3600))
        pyloop.spawn(asyncio.sleep(3600))
        await asyncio.sleep(0.01)
    loop.run_until_complete(main())
    loop.close()
    assert loop.is_closed()
    import gc
    gc.collect()
    assert set(reports) <= {"Task was destroyed but it is pending!"}


def test_close_from_a_strand_is_refused(backend):
    loop = pyloop.Loop(backend=backend, parallel=True, workers=2)

    async def main():
        async def close():
            for wrong in loop, asyncio.get_running_loop():
                with pytest.raises(RuntimeError, match="running event loop"):
                    wrong.close()
        await parallel_kit.there(close())
    loop.run_until_complete(main())
    loop.close()


def in_a_process(code, status=0):
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)], timeout=60,
                          capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


def test_a_process_ends_with_an_open_loop():
    in_a_process("""
        import asyncio, pyloop
        loop = pyloop.Loop(parallel=True, workers=3)
        async def main():
            for _ in range(10):
                pyloop.spawn(asyncio.sleep(3600))
            await asyncio.sleep(0.01)
        loop.run_until_complete(main())
    """)


@pytest.mark.skipif(os.environ.get("PYLOOP_SANITIZED") == "1",
                    reason="ASan bears no fork while another thread allocates: the child finds its lock held")
def test_a_forked_child_has_no_loop():
    # Without the collector: of a fork while another thread is about to stop the world, free-threaded
    # CPython 3.13 leaves the child that lock held, and threading's own hook in the child waits for it.
    done = in_a_process("""
        import asyncio, gc, os, pyloop
        gc.disable()
        async def fork():
            pid = os.fork()
            if pid == 0:
                try:
                    asyncio.get_running_loop()
                except RuntimeError:
                    pyloop.run(asyncio.sleep(0), parallel=True, workers=2)
                    print("child", flush=True)
                    os._exit(7)
                os._exit(1)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        async def main():
            print(await asyncio.gather(fork(), *(pyloop.spawn(fork()) for _ in range(3))))
        pyloop.run(main(), parallel=True, workers=2)
    """)
    assert done.stdout.splitlines()[-1] == "[7, 7, 7, 7]"


@pytest.mark.skipif(os.environ.get("PYLOOP_SANITIZED") == "1" or not parallel_kit.HAS_GIL,
                    reason="a fork while other threads run Python: ASan's lock, and without a GIL any, may stay held")
@pytest.mark.parametrize(("lane", "status"), [(0, 7), (1, 0)])
def test_a_forked_child_waits_for_nobody(lane, status):
    """In the child only one lane has a thread; to the others it would pass the GIL for ever."""
    in_a_process(f"""
        import asyncio, os, pyloop, signal, time
        is_over = False
        async def circulate():
            while not is_over:
                await asyncio.sleep(0)
        async def fork():
            for _ in range(5):
                end = time.monotonic() + 0.001  # the others get into the line
                while time.monotonic() < end:
                    pass
                pid = os.fork()
                if pid == 0:
                    signal.alarm(30)
                    return  # run() raises RuntimeError, or the thread of the lane ends
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == {status}
                await asyncio.sleep(0.001)
        async def main():
            global is_over
            first = asyncio.get_running_loop()
            works = [circulate(), circulate(), circulate()]
            works[{lane}].close()
            works[{lane}] = fork()
            here, *there = works
            running = [asyncio.create_task(here)]
            running += [asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, view))
                        for work, view in zip(there, first._other_views)]
            await running[{lane}]
            is_over = True
            await asyncio.gather(*running)
        try:
            pyloop.run(main(), parallel=True, workers=3)
        except RuntimeError:
            os._exit(7)
    """)


def test_ctrl_c_ends_everything():
    done = in_a_process("""
        import asyncio, os, pyloop, signal
        async def endless():
            try:
                await asyncio.sleep(3600)
            finally:
                print("ended", flush=True)
        async def main():
            for _ in range(3):
                pyloop.spawn(endless())
            await asyncio.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(3600)
        try:
            pyloop.run(main(), parallel=True, workers=2)
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert done.stdout.split() == ["ended"] * 3 + ["interrupted"]


@pytest.mark.parametrize("workers", [2, 3])
def test_what_is_spawned_while_the_lanes_end_is_let_go(backend, workers):
    """Callbacks spawn up to their lane's last turn; close() forgets none of the coroutines."""
    class Argument:
        pass

    async def late(argument):
        pass

    def spawn_again(view):
        argument = Argument()
        alive.add(argument)
        pyloop.spawn(late(argument))
        view.call_soon(spawn_again, view)

    async def begin():
        spawn_again(asyncio.get_running_loop())

    async def main():
        await parallel_kit.there(begin(), workers - 2)

    alive = weakref.WeakSet()
    for _ in range(20):
        loop = pyloop.Loop(backend=backend, parallel=True, workers=workers)
        loop.run_until_complete(main())
        loop.close()
    del loop
    gc.collect()
    assert not alive
