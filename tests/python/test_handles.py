"""Handle, TimerHandle and _ThreadSafeHandle: identity, cancel, repr, comparison, the debug log."""

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import weakref

import pytest


def callback(*args):
    pass


def run_briefly(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_identity(loop):
    handle = loop.call_soon(callback)
    timer = loop.call_later(1, callback)
    assert isinstance(handle, asyncio.Handle) and not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.TimerHandle) and isinstance(timer, asyncio.Handle)
    assert isinstance(loop.call_soon_threadsafe(callback), asyncio.Handle)
    for kind in {type(handle), type(timer)}:
        with pytest.raises(TypeError):
            kind()


def test_cancel(loop):
    ran = []
    handle = loop.call_soon(ran.append, 1)
    assert not handle.cancelled()
    handle.cancel()
    handle.cancel()
    assert handle.cancelled()
    assert handle._callback is None and handle._args is None
    run_briefly(loop)
    assert ran == []


@pytest.mark.parametrize("count", [0, 1, 4, 5, 20])
def test_private_attributes_are_asyncios(loop, count):
    context = contextvars.copy_context()
    handle = loop.call_soon(callback, *range(count), context=context)
    assert handle._callback is callback
    assert handle._args == tuple(range(count))
    assert handle._loop is loop
    assert handle._context is context and handle.get_context() is context
    assert handle._cancelled is False
    assert handle._source_traceback is None
    timer = loop.call_at(5, callback)
    assert timer.when() == timer._when == 5
    run_briefly(loop)
    assert handle._callback is callback and handle._args == tuple(range(count))


def test_scheduled(loop):
    timer = loop.call_later(1000, callback)
    assert timer._scheduled is True
    timer.cancel()
    assert timer._scheduled is False


def test_run_by_hand(loop, reports):
    seen = []
    var = contextvars.ContextVar("var", default=0)
    context = contextvars.copy_context()
    context.run(var.set, 1)
    handle = loop.call_later(1000, lambda: seen.append(var.get()), context=context)
    handle._run()
    assert seen == [1]
    handle.cancel()
    handle._run()
    assert seen == [1]
    loop.call_later(1000, lambda: 1 / 0)._run()
    assert isinstance(reports.pop()["exception"], ZeroDivisionError)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.call_later(1000, interrupt)._run()


def test_cancel_of_the_running_handle(loop):
    seen = []

    class Callback:
        def __call__(self, *args):
            handle.cancel()
            gc.collect()
            seen.append((self, args, handle._callback))

    argument = object()
    handle = loop.call_soon(Callback(), argument)
    ref = weakref.ref(handle._callback)
    run_briefly(loop)
    assert seen[0][1] == (argument,)
    seen.clear()
    assert handle._callback is None and ref() is None


def test_weak_reference(loop):
    handle = loop.call_soon(callback)
    ref = weakref.ref(handle)
    assert ref() is handle
    run_briefly(loop)
    del handle
    assert ref() is None


def test_cycle_through_a_handle_is_collected(loop):
    class Owner:
        pass

    owner = Owner()
    owner.handle = loop.call_later(1000, callback, owner)
    ref = weakref.ref(owner)
    owner.handle.cancel()
    owner.handle._run()
    del owner
    gc.collect()
    assert ref() is None
    owner = Owner()
    owner.handle = loop.call_soon(callback, owner)
    ref = weakref.ref(owner)
    run_briefly(loop)
    del owner
    gc.collect()
    assert ref() is None


def test_repr(loop):
    loop.set_debug(False)
    line = callback.__code__.co_firstlineno
    source = f"at {__file__}:{line}"
    handle = loop.call_soon(callback)
    assert repr(handle) == f"<Handle callback() {source}>"
    handle.cancel()
    assert repr(handle) == "<Handle cancelled>"
    timer = loop.call_at(123, callback)
    assert repr(timer) == f"<TimerHandle when=123.0 callback() {source}>"
    timer.cancel()
    assert repr(timer) == "<TimerHandle cancelled when=123.0>"


def test_repr_in_debug_mode(loop):
    loop.set_debug(True)
    handle = loop.call_soon(callback, "argument")
    here = f"created at {__file__}:{sys._getframe().f_lineno - 1}"
    text = repr(handle)
    assert text.startswith("<Handle callback('argument') at ") and text.endswith(here + ">")
    handle.cancel()
    assert repr(handle) == text.replace("Handle", "Handle cancelled", 1)
    assert handle._source_traceback[-1].filename == __file__


def test_comparison(loop):
    now = loop.time() + 100
    a = loop.call_at(now, callback)
    b = loop.call_at(now, callback)
    later = loop.call_at(now + 1, callback)
    assert a == b and not a != b
    assert a <= b and a >= b and not a < b and not a > b
    assert a < later and later > a and a <= later and later >= a
    assert a != later and not a == later
    assert hash(a) == hash(b) == hash(now)
    b.cancel()
    assert a != b
    foreign = asyncio.TimerHandle(now, callback, (), loop)
    assert a == foreign and foreign == a and foreign < later and later > foreign
    assert a != 1 and not a == "x"
    with pytest.raises(TypeError):
        a < 1
    handle = loop.call_soon(callback)
    assert a != handle and {handle}


def test_exception_with_source_traceback(loop, reports):
    loop.set_debug(True)
    loop.call_soon(lambda: 1 / 0)
    line = sys._getframe().f_lineno - 1
    run_briefly(loop)
    report = reports.pop()
    assert report["source_traceback"][-1].lineno == line


def test_slow_callback_is_logged(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.call_soon(callback)
        run_briefly(loop)
    assert any(record.message.startswith("Executing <Handle callback()")
               and record.message.endswith(" seconds") for record in caplog.records)
    caplog.clear()
    loop.slow_callback_duration = 1000
    loop.call_soon(callback)
    run_briefly(loop)
    assert not caplog.records


def test_debug_checks(loop):
    loop.set_debug(True)

    async def coroutine():
        pass

    for method, leading in (("call_soon", ()), ("call_soon_threadsafe", ()),
                            ("call_later", (1,)), ("call_at", (1,))):
        call = getattr(loop, method)
        # call_later() checks what call_at() would: the text names whichever asyncio names.
        with pytest.raises(TypeError, match="coroutines cannot be used with call_"):
            call(*leading, coroutine)
        with pytest.raises(TypeError, match="a callable object was expected by call_"):
            call(*leading, "no callable")


def test_debug_finds_the_wrong_thread(loop):
    loop.set_debug(True)
    errors = []

    def work():
        for call in (lambda: loop.call_soon(callback), lambda: loop.call_later(1, callback),
                     lambda: loop.call_at(1, callback)):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert errors == ["Non-thread-safe operation invoked on an event loop other than the current "
                      "one"] * 3


def test_coroutine_origin_in_debug_mode(loop):
    loop.set_debug(True)

    async def inner():
        pass

    async def main():
        coro = inner()
        origin = coro.cr_origin
        coro.close()
        return origin

    assert loop.run_until_complete(main())
    assert sys.get_coroutine_origin_tracking_depth() == 0


@pytest.fixture
def blocking_loop(loop):
    """call_soon_threadsafe() returns what it does from Python 3.14 on."""
    loop._has_blocking_cancel = True
    return loop


@pytest.mark.parametrize("method", ["cancel", "cancelled"])
def test_thread_safe_handle_waits_for_its_callback(blocking_loop, method):
    loop = blocking_loop
    inside, finish, order = threading.Event(), threading.Event(), []

    def work():
        inside.wait(10)
        threading.Timer(0.05, finish.set).start()
        order.append(("asked", getattr(handle, method)()))
        loop.call_soon_threadsafe(loop.stop)

    def slow():
        inside.set()
        finish.wait(10)
        order.append("ran")

    handle = loop.call_soon_threadsafe(slow)
    thread = threading.Thread(target=work)
    thread.start()
    loop.run_forever()
    thread.join()
    assert order == ["ran", ("asked", False if method == "cancelled" else None)]


def test_thread_safe_handle_from_its_own_thread(blocking_loop):
    loop = blocking_loop
    ran = []

    def callback():
        ran.append(handle.cancelled())
        handle.cancel()
        ran.append(handle.cancelled())

    handle = loop.call_soon_threadsafe(callback)
    other = loop.call_soon_threadsafe(pytest.fail)
    other.cancel()
    run_briefly(loop)
    assert ran == [False, True]
    assert "ThreadSafe" in type(handle).__name__


@pytest.mark.skipif(not hasattr(asyncio.events, "_ThreadSafeHandle"), reason="asyncio has it from 3.14 on")
def test_thread_safe_handle_identity(loop):
    assert isinstance(loop.call_soon_threadsafe(callback), asyncio.events._ThreadSafeHandle)


def schedulers(loop):
    """Each way to hand a callback to the loop, as function(callback)."""

    def from_a_thread(callback):
        run = contextvars.Context().run  # a free-threaded build may hand its own to the thread
        thread = threading.Thread(target=run, args=(loop.call_soon_threadsafe, callback))
        thread.start()
        thread.join()

    return [loop.call_soon, loop.call_soon_threadsafe, lambda c: loop.call_later(0, c), from_a_thread]


@pytest.mark.parametrize("is_empty", [True, False])
def test_each_callback_has_a_context_of_its_own(loop, is_empty):
    outer = contextvars.ContextVar("outer", default=0)
    inner = contextvars.ContextVar("inner", default=0)
    seen = []

    def callback():
        seen.append((outer.get(), inner.get()))
        inner.set(1)

    def schedule():
        if not is_empty:
            outer.set(5)
        for call in schedulers(loop):
            call(callback)
            call(callback)
        outer.set(6)  # comes too late for them
        run_briefly(loop)
        assert inner.get() == 0

    contextvars.Context().run(schedule)
    inherited = 0 if is_empty else 5
    assert sorted(seen) == [(0, 0)] * 2 + [(inherited, 0)] * 6


def test_a_context_that_is_asked_for_is_the_one_the_callback_runs_in(loop):
    var = contextvars.ContextVar("var", default=0)
    seen = []

    def schedule():
        handle = loop.call_soon(lambda: seen.append(var.get()))
        context = handle._context
        assert isinstance(context, contextvars.Context)
        assert handle._context is context and handle.get_context() is context
        context.run(var.set, 3)
        later = loop.call_soon(var.set, 4)
        run_briefly(loop)
        assert later._context[var] == 4

    contextvars.Context().run(schedule)
    assert seen == [3]
