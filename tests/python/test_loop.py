"""The life of a loop: running, stopping, closing, what leaves run_forever()."""

import asyncio
import contextvars
import functools
import gc
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref

import pytest

import pyloop


def test_is_a_base_event_loop(loop, backend):
    assert isinstance(loop, asyncio.BaseEventLoop)
    assert loop.backend == backend
    loop.close()
    assert loop.backend is None


def test_repr(loop):
    assert repr(loop) == f"<Loop running=False closed=False debug={loop.get_debug()}>"


def test_run_until_complete_returns_and_raises(loop):
    async def main(error):
        await asyncio.sleep(0)
        if error:
            raise error
        return 7

    assert loop.run_until_complete(main(None)) == 7
    with pytest.raises(LookupError, match="x"):
        loop.run_until_complete(main(LookupError("x")))


def test_run_until_complete_of_a_loop_that_is_stopped(loop):
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="^Event loop stopped before Future completed.$"):
        loop.run_until_complete(loop.create_future())


def test_stop_before_run_forever_runs_one_turn(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.stop()
    loop.run_forever()
    assert ran == [1]
    loop.call_soon(ran.append, 2)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [1, 2]


def test_stop_runs_what_is_ready_and_not_what_comes_after(loop):
    ran = []

    def first():
        loop.stop()
        loop.call_soon(ran.append, "later")

    loop.call_soon(first)
    loop.call_soon(ran.append, "ready")
    loop.run_forever()
    assert ran == ["ready"]


def test_running_loop_is_set_and_reset(loop):
    async def main():
        assert asyncio.get_running_loop() is loop
        assert loop.is_running()

    assert not loop.is_running()
    loop.run_until_complete(main())
    assert not loop.is_running()
    assert asyncio._get_running_loop() is None


def test_running_twice_is_refused(new_loop):
    loop, other = new_loop(), new_loop()

    async def main():
        with pytest.raises(RuntimeError, match="^This event loop is already running$"):
            loop.run_forever()
        with pytest.raises(RuntimeError,
                           match="^Cannot run the event loop while another loop is running$"):
            other.run_forever()
        with pytest.raises(RuntimeError, match="^This event loop is already running$"):
            loop.run_until_complete(loop.create_future())
        with pytest.raises(RuntimeError, match="^Cannot close a running event loop$"):
            loop.close()

    loop.run_until_complete(main())


def test_closed_loop_refuses_everything(loop):
    loop.close()
    loop.close()
    assert loop.is_closed()
    calls = [
        loop.run_forever,
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.add_reader(0, print),
        lambda: loop.add_writer(1, print),
        lambda: loop.run_in_executor(None, print),
        lambda: loop.add_signal_handler(2, print),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="^Event loop is closed$"):
            call()

    async def coroutine():
        pass

    coro = coroutine()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.create_task(coro)
    coro.close()
    assert loop.remove_reader(0) is False
    assert isinstance(loop.time(), float)


def test_close_drops_what_is_scheduled(new_loop):
    class Marker:
        def call(self):
            raise AssertionError("ran")

    loop = new_loop()
    markers = [Marker() for _ in range(6)]
    refs = [weakref.ref(marker) for marker in markers]
    loop.call_soon(markers[0].call)
    loop.call_soon_threadsafe(markers[1].call)
    loop.call_later(1000, markers[2].call)
    loop.call_later(float("inf"), markers[3].call)
    loop.call_at(0, markers[4].call)
    read, write = os.pipe()
    loop.add_reader(read, markers[5].call)
    loop.close()
    markers.clear()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 6
    os.close(read)
    os.close(write)


def test_close_gives_back_every_descriptor(backend):
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(20):
        loop = pyloop.Loop(backend=backend)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert count() == before


def test_unclosed_loop_warns_and_is_collected(backend):
    loop = pyloop.Loop(backend=backend)
    ref = weakref.ref(loop)
    loop.call_soon(loop.stop)  # a cycle through the ready queue
    loop.call_later(1000, loop.stop)
    loop.itself = loop
    with pytest.warns(ResourceWarning, match="unclosed event loop <Loop running=False"):
        del loop
        gc.collect()
    gc.collect()  # 3.15 clears weak references after the finalizers, and the recorded warning held the loop
    assert ref() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_leave_run_forever_and_keep_the_rest(loop, error):
    ran = []

    def fail():
        raise error("x")

    loop.call_soon(ran.append, 1)
    loop.call_soon(fail)
    loop.call_soon(ran.append, 2)
    with pytest.raises(error):
        loop.run_forever()
    assert ran == [1]
    assert not loop.is_running()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [1, 2]


def test_exceptions_are_reported(loop, reports):
    def fail(argument):
        raise ValueError("x")

    handle = loop.call_soon(fail, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()
    [report] = reports
    assert isinstance(report["exception"], ValueError)
    assert report["handle"] is handle
    assert report["message"].startswith("Exception in callback ")
    assert "fail" in report["message"]
    reports.clear()


def test_other_base_exceptions_are_reported_too(loop, reports):
    class Odd(BaseException):
        pass

    def fail():
        raise Odd

    loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert isinstance(reports.pop()["exception"], Odd)


def test_exception_handler_that_raises_interrupt(loop):
    def fail():
        raise ValueError

    def handler(loop, context):
        raise KeyboardInterrupt

    loop.set_exception_handler(handler)
    loop.call_soon(fail)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()


def test_default_exception_handler_logs(loop, caplog):
    def fail():
        raise ValueError("boom")

    loop.set_exception_handler(None)
    loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert "Exception in callback" in caplog.text
    assert "boom" in caplog.text


def test_async_generators_are_closed(loop):
    closed = []

    async def generator():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async def main():
        async for _ in generator():
            break
        gc.collect()
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert closed == [True]
    assert sys.get_asyncgen_hooks() == (None, None)


def test_context_of_callbacks(loop):
    var = contextvars.ContextVar("var", default=0)
    seen = []

    def callback():
        seen.append(var.get())
        var.set(100)

    context = contextvars.copy_context()
    context.run(var.set, 1)
    loop.call_soon(callback)
    var.set(2)
    loop.call_soon(callback, context=context)
    loop.call_soon(callback)
    loop.call_later(0, callback, context=context)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert seen == [0, 1, 2, 100]
    assert var.get() == 2
    assert context[var] == 100


def test_busy_loop_lets_other_threads_run(loop):
    count = 0

    def count_up():
        nonlocal count
        for _ in range(100):
            count += 1
        loop.call_soon_threadsafe(loop.stop)

    # A callback in C that schedules itself: no bytecode in which the interpreter could switch threads.
    again = functools.partial(loop.call_soon)
    again.__setstate__((loop.call_soon, (again,), {}, {}))
    thread = threading.Thread(target=count_up)
    loop.call_soon(thread.start)
    loop.call_soon(again)
    loop.run_forever()
    thread.join()
    assert count == 100


def test_a_sleeping_loop_holds_no_gil(loop):
    def worker():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if sum(range(1000)) < 0:
                break
            if loop.is_running():
                break
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=worker)
    thread.start()
    loop.run_forever()
    thread.join()


def test_loop_made_in_one_thread_runs_in_another_and_is_closed_in_a_third(loop):
    loop.run_until_complete(asyncio.sleep(0))
    result = []

    def run():
        asyncio.set_event_loop(loop)
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        result.append(loop.run_until_complete(asyncio.sleep(0.01, "slept")))

    for work in (run, run, loop.close):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert result == ["slept"] * 2
    assert loop.is_closed()


def test_watches_survive_a_change_of_thread(loop):
    read, write = os.pipe()
    got = []

    def readable():
        got.append(os.read(read, 10))
        loop.stop()

    loop.add_reader(read, readable)
    loop.run_until_complete(asyncio.sleep(0))
    os.write(write, b"x")
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    thread.join(10)
    assert got == [b"x"]
    loop.remove_reader(read)
    os.close(read)
    os.close(write)


def test_subclass_with_its_own_init(backend):
    class Mine(pyloop.Loop):
        def __init__(self):
            self.before = True
            super().__init__(backend=backend)

    loop = Mine()
    assert loop.before and loop.run_until_complete(asyncio.sleep(0, 1)) == 1
    with pytest.raises(RuntimeError, match="initialised only once"):
        loop.__init__()
    loop.close()


def test_unknown_backend():
    with pytest.raises(RuntimeError, match="backend 'nonsense'"):
        pyloop.Loop(backend="nonsense")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()
    with pytest.raises(TypeError):
        pyloop.Loop(backend=1)


def in_child(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment},
                          capture_output=True, text=True, timeout=60)


def test_backend_from_the_environment():
    code = "import pyloop; l = pyloop.Loop(); print(l.backend); l.close()"
    assert in_child(code, PYLOOP_BACKEND="epoll").stdout == "epoll\n"
    result = in_child(code, PYLOOP_BACKEND="nonsense")
    assert "RuntimeError" in result.stderr and "nonsense" in result.stderr


def test_run(backend):
    async def main():
        return type(asyncio.get_running_loop()), asyncio.get_running_loop().backend

    assert pyloop.run(main(), backend=backend) == (pyloop.Loop, backend)
    coro = main()
    with pytest.raises(TypeError, match="loop_factory"):
        pyloop.run(coro, loop_factory=pyloop.new_event_loop, backend=backend)
    coro.close()


def test_run_inside_a_loop_is_refused(run):
    async def main():
        coro = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            pyloop.run(coro)
        coro.close()

    run(main())


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="policies are gone")
def test_policy_and_install():
    code = """if True:
        import asyncio, pyloop, warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pyloop.install()
        async def main():
            return type(asyncio.get_running_loop())
        assert asyncio.run(main()) is pyloop.Loop
        print([warning.category.__name__ for warning in caught])
    """
    result = in_child(code)
    expected = ["DeprecationWarning"] if sys.version_info >= (3, 14) else []
    assert result.stdout == f"{expected}\n", result.stderr


def test_import_warns_of_nothing():
    result = in_child("import warnings; warnings.simplefilter('error'); import pyloop; "
                      "l = pyloop.new_event_loop(); l.close()")
    assert result.returncode == 0, result.stderr


def test_module_has_no_other_attributes():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pyloop.nonsense


@pytest.mark.skipif(not hasattr(sys, "_is_gil_enabled"), reason="sys._is_gil_enabled() came with 3.13")
def test_import_leaves_the_gil_off():
    result = in_child("import sys, sysconfig, pyloop; "
                      "print(sys._is_gil_enabled() == (not sysconfig.get_config_var('Py_GIL_DISABLED')))",
                      PYTHON_GIL="")
    assert result.stdout == "True\n", result.stderr


def test_debug_mode_keeps_where_things_were_made(new_loop):
    """The last frame is the caller's, none of the loop's own."""
    loop = new_loop()

    async def main():
        made = [loop.create_task(asyncio.sleep(0)), loop.create_future(), loop.call_soon(int),
                loop.call_later(0, int), loop.call_soon_threadsafe(int)]
        for thing in made:
            last = thing._source_traceback[-1]
            assert (last.filename, last.name) == (__file__, "main"), thing
        await made[0]
        return made

    loop.set_debug(True)
    loop.run_until_complete(main())
    loop.set_debug(False)
    assert not loop.call_soon(int)._source_traceback
    assert not loop.create_future()._source_traceback
