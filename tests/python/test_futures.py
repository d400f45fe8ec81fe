"""pyloop's Future: asyncio's interface on our loop, and what is our own about it."""

import asyncio
import collections.abc
import contextvars
import gc
import weakref

import pytest

from pyloop import _core


@pytest.fixture(params=["direct", "debug"])
def loop(new_loop, request):
    loop = new_loop()
    loop.set_debug(request.param == "debug")
    return loop


def turn(loop):
    """Runs what is ready now."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_create_future_makes_ours(loop):
    assert type(loop.create_future()) is _core.Future


def test_native_tasks_false_brings_asyncios_back(new_loop):
    loop = new_loop(native_tasks=False)
    assert type(loop.create_future()) is asyncio.Future


def test_is_an_asyncio_future_for_everybody_who_asks(loop):
    future = loop.create_future()
    assert isinstance(future, asyncio.Future)
    assert not isinstance(future, asyncio.Task)
    assert asyncio.isfuture(future)
    assert isinstance(future, collections.abc.Awaitable)


def test_is_neither_coroutine_nor_iterator(loop):
    future = loop.create_future()
    assert not asyncio.iscoroutine(future)
    assert not isinstance(future, collections.abc.Iterator)
    assert not hasattr(future, "send")


def test_a_subclass_is_an_asyncio_future_under_its_own_name(loop):
    class Mine(_core.Future):
        pass

    future = Mine(loop=loop)
    assert isinstance(future, asyncio.Future)
    assert repr(future).startswith("<Mine pending")


def test_has_a_dict_weak_references_and_a_generic_alias(loop):
    future = loop.create_future()
    future.mark = 1
    assert future.__dict__ == {"mark": 1}
    assert weakref.ref(future)() is future
    assert _core.Future[int].__origin__ is _core.Future


def test_callbacks_run_in_order_with_waiting_tasks_among_them(loop):
    seen = []
    future = loop.create_future()

    async def wait(name):
        await future
        seen.append(name)

    future.add_done_callback(lambda _: seen.append("first"))
    tasks = [loop.create_task(wait("a"))]
    turn(loop)
    future.add_done_callback(lambda _: seen.append("second"))
    tasks.append(loop.create_task(wait("b")))
    turn(loop)
    future.add_done_callback(lambda _: seen.append("third"))
    future.set_result(None)
    turn(loop)
    assert seen == ["first", "a", "second", "b", "third"]
    assert all(task.done() for task in tasks)


def test_callbacks_shows_a_waiting_task_as_a_callable(loop):
    future = loop.create_future()

    async def wait():
        await future

    task = loop.create_task(wait())
    turn(loop)
    ((callback, context),) = future._callbacks
    assert callable(callback)
    assert callback.__self__ is task
    assert isinstance(context, contextvars.Context)
    assert "cb=[Task.task_wakeup()]" in repr(future)
    assert future._asyncio_awaited_by == frozenset([task])
    future.set_result(None)
    turn(loop)
    assert task.done()
    assert future._callbacks is None
    assert future._asyncio_awaited_by is None


def test_remove_done_callback_counts_and_finds_waiting_tasks(loop):
    future = loop.create_future()

    async def wait():
        await future

    def other(_):
        raise AssertionError("was removed")

    task = loop.create_task(wait())
    turn(loop)
    future.add_done_callback(other)
    future.add_done_callback(other)
    assert future.remove_done_callback(other) == 2
    wakeup = future._callbacks[0][0]
    assert future.remove_done_callback(wakeup) == 1
    future.add_done_callback(wakeup)
    future.set_result(None)
    turn(loop)
    assert task.done()


def test_a_callback_that_finishes_the_future_while_being_compared(loop):
    future = loop.create_future()

    class Evil:
        def __call__(self, _):
            pass

        def __eq__(self, other):
            if not future.done():
                future.set_result(None)
            return False

        __hash__ = object.__hash__

    future.add_done_callback(print)
    future.add_done_callback(Evil())
    future.add_done_callback(Evil())
    future.remove_done_callback(Evil())
    assert future.done()
    assert future._callbacks is None


def test_states_refuse_what_asyncio_refuses(loop):
    future = loop.create_future()
    with pytest.raises(asyncio.InvalidStateError, match="Result is not set."):
        future.result()
    with pytest.raises(asyncio.InvalidStateError, match="Exception is not set."):
        future.exception()
    future.set_result(1)
    with pytest.raises(asyncio.InvalidStateError, match="invalid state"):
        future.set_result(2)
    with pytest.raises(asyncio.InvalidStateError, match="invalid state"):
        future.set_exception(ValueError())
    assert not future.cancel()
    assert future.result() == 1


def test_an_uninitialized_future_raises_instead_of_crashing():
    future = _core.Future.__new__(_core.Future)
    for call in (future.get_loop, future.cancel, lambda: future._state, lambda: repr(future),
                 lambda: future.set_result(1), lambda: future.add_done_callback(print), lambda: iter(future)):
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(asyncio.InvalidStateError):
        future.result()
    assert not future.done()


def test_cancel_message_travels_to_the_waiter(loop):
    future = loop.create_future()
    future.cancel("no more")

    async def wait():
        await future

    with pytest.raises(asyncio.CancelledError, match="no more"):
        loop.run_until_complete(wait())


def test_a_cancel_message_is_replaced_and_taken_away(loop):
    future = loop.create_future()
    assert future._cancel_message is None
    for message in ("first", None, ["third"]):
        future._cancel_message = message
        assert future._cancel_message is message
    future.cancel(None)
    assert future._cancel_message is None
    with pytest.raises(asyncio.CancelledError) as caught:
        future.result()
    assert caught.value.args == ()


def test_an_exception_raised_twice_does_not_drag_the_first_time_along(loop):
    def raised():
        try:
            raise ValueError("here")
        except ValueError as error:
            return error

    def depth(traceback):
        return 0 if traceback is None else 1 + depth(traceback.tb_next)

    future = loop.create_future()
    future.set_exception(raised())
    depths = []
    for _ in range(3):
        with pytest.raises(ValueError, match="here") as caught:
            future.result()
        depths.append(depth(caught.value.__traceback__))
    assert depths == [2, 1, 1]  # where it was set, and this line; then this line only


def test_without_memory_a_future_is_cancelled_or_stays_pending(new_loop):
    testcapi = pytest.importorskip("_testcapi")
    loop = new_loop()
    outcomes = set()
    for count in range(30):
        future = loop.create_future()
        try:
            testcapi.set_nomemory(count, count + 1)
            future.cancel("no memory")
        except MemoryError:
            pass
        finally:
            testcapi.remove_mem_hooks()
        assert future._cancel_message == ("no memory" if future.cancelled() else None)
        outcomes.add(future.cancelled())
    assert outcomes == {True, False}


def test_without_memory_a_future_has_its_exception_all_the_same(new_loop):
    testcapi = pytest.importorskip("_testcapi")
    loop = new_loop()
    try:
        raise ValueError("kept")
    except ValueError as caught:
        error = caught
    for count in range(10):
        future = loop.create_future()
        try:
            testcapi.set_nomemory(count, count + 1)
            future.set_exception(error)
        except MemoryError:
            pass
        finally:
            testcapi.remove_mem_hooks()
        assert future.done()
        assert future.exception() is error


def test_stop_iteration_never_becomes_a_result(loop):
    future = loop.create_future()
    try:
        future.set_exception(StopIteration(3))
    except TypeError as error:  # 3.11.0 to 3.11.7, 3.12.0, 3.12.1
        assert "StopIteration interacts badly" in str(error)
    else:
        with pytest.raises(RuntimeError, match="StopIteration interacts badly"):
            future.result()


def test_a_tuple_or_an_exception_is_a_result_like_any_other(loop):
    async def wait(value):
        future = loop.create_future()
        loop.call_soon(future.set_result, value)
        return await future

    error = ValueError("a value")
    assert loop.run_until_complete(wait((1, 2))) == (1, 2)
    assert loop.run_until_complete(wait(error)) is error


def test_an_exception_nobody_asked_for_is_reported(loop, reports):
    future = loop.create_future()
    error = ValueError("lost")
    future.set_exception(error)
    del future
    gc.collect()
    assert [r["message"] for r in reports] == ["Future exception was never retrieved"]
    assert reports[0]["exception"] is error
    reports.clear()


def test_a_handler_may_resurrect_the_future(loop, reports):
    future = loop.create_future()
    future.set_exception(ValueError("kept"))
    del future
    gc.collect()
    kept = reports[0]["future"]
    reports.clear()
    assert isinstance(kept.exception(), ValueError)


def test_a_retrieved_exception_is_not_reported(loop):
    future = loop.create_future()
    future.set_exception(ValueError())
    future.exception()
    del future
    gc.collect()


def test_an_overridden_call_soon_sees_every_wakeup(new_loop):
    loop = new_loop()
    calls = []
    original = loop.call_soon

    def call_soon(callback, *args, context=None):
        calls.append(callback)
        return original(callback, *args, context=context)

    async def wait():
        future = loop.create_future()
        original(future.set_result, 5)
        return await future

    loop.call_soon = call_soon
    assert loop.run_until_complete(wait()) == 5
    assert sum("task_step" in repr(c) or "task_wakeup" in repr(c) for c in calls) == 2


def test_asyncios_own_task_may_await_ours_and_ours_asyncios(loop):
    async def wait(future):
        return await future

    ours, theirs = loop.create_future(), asyncio.Future(loop=loop)
    loop.call_soon(ours.set_result, 1)
    assert loop.run_until_complete(asyncio.Task(wait(ours), loop=loop)) == 1
    loop.call_soon(theirs.set_result, 2)
    assert loop.run_until_complete(loop.create_task(wait(theirs))) == 2


def test_works_on_asyncios_loop():
    loop = asyncio.SelectorEventLoop()
    try:
        future = _core.Future(loop=loop)
        loop.call_soon(future.set_result, 7)
        assert loop.run_until_complete(future) == 7
    finally:
        loop.close()


def test_set_result_on_a_closed_loop_raises_if_somebody_waits(new_loop):
    loop = new_loop()
    future = loop.create_future()
    future.add_done_callback(print)
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        future.set_result(None)


def test_iter_and_dunder_await_give_an_iterator_with_send(loop):
    for make in (iter, lambda f: f.__await__()):
        future = loop.create_future()
        iterator = make(future)
        assert iterator.send(None) is future
        future.set_result("x")
        with pytest.raises(StopIteration) as caught:
            iterator.send(None)
        assert caught.value.value == "x"
    future = loop.create_future()
    future.set_result(None)
    with pytest.raises(StopIteration):
        iter(future).send(None)


def test_yielding_a_future_without_await_is_an_error(loop):
    class Wrong:
        def __await__(self):
            yield loop.create_future()

    async def wait():
        await Wrong()

    with pytest.raises(RuntimeError, match="yield was used instead of yield from"):
        loop.run_until_complete(wait())


def test_a_cycle_of_futures_is_collected(loop):
    first, second = loop.create_future(), loop.create_future()
    first.other, second.other = second, first
    first.set_result(second)
    second.set_result(first)
    watch = weakref.ref(first)
    del first, second
    gc.collect()
    assert watch() is None
