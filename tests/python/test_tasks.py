"""pyloop's Task: asyncio's interface on our loop, and what is our own about it."""

import asyncio
import contextvars
import gc
import io
import sys
import threading
import weakref

import pytest

import pyloop
from pyloop import _core

variable = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(params=["direct", "debug"])
def loop(new_loop, request):
    loop = new_loop()
    loop.set_debug(request.param == "debug")
    return loop


def turn(loop):
    """Runs what is ready now."""
    loop.call_soon(loop.stop)
    loop.run_forever()


async def value(result=None):
    return result


async def forever(loop):
    await loop.create_future()


def test_create_task_makes_ours_which_is_an_asyncio_task(loop):
    async def main():
        task = asyncio.current_task()
        assert type(task) is _core.Task
        assert isinstance(task, asyncio.Task) and isinstance(task, asyncio.Future)
        assert asyncio.ensure_future(task) is task
        return await loop.create_task(value(3))

    assert loop.run_until_complete(main()) == 3


def test_native_tasks_false_brings_asyncios_back(new_loop):
    loop = new_loop(native_tasks=False)

    async def main():
        return type(asyncio.current_task())

    assert loop.run_until_complete(main()) is asyncio.Task


def test_steps_and_callbacks_share_one_order(loop):
    seen = []

    async def step(name):
        seen.append(name)
        await asyncio.sleep(0)
        seen.append(name + "2")

    tasks = []
    tasks.append(loop.create_task(step("a")))
    loop.call_soon(seen.append, "callback")
    tasks.append(loop.create_task(step("b")))
    turn(loop)
    assert seen == ["a", "callback", "b"]
    turn(loop)
    assert seen == ["a", "callback", "b", "a2", "b2"]
    assert all(task.done() for task in tasks)


def test_current_task_is_right_in_steps_and_none_in_callbacks(loop):
    seen = []

    async def main():
        seen.append(asyncio.current_task())
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    task = loop.create_task(main())
    loop.run_until_complete(task)
    assert seen == [task, None, task]


def test_current_task_of_both_kinds_nested_in_one_another(loop):
    seen = []

    async def eager(task_class, inner):
        me = asyncio.current_task()
        if inner:
            await task_class[0](eager(task_class[1:], inner - 1), loop=loop, eager_start=True)
        seen.append((asyncio.current_task() is me, type(me)))

    async def main():
        me = asyncio.current_task()
        ours = type(me)
        for classes in ([asyncio.Task, ours, asyncio.Task], [ours, asyncio.Task, ours]):
            await eager(classes, 3)
            assert asyncio.current_task() is me

    if sys.version_info < (3, 12):
        pytest.skip("no eager tasks")
    loop.run_until_complete(main())
    assert len(seen) == 8
    assert all(is_same for is_same, _ in seen)
    assert len({kind for _, kind in seen}) == 2


def test_a_task_cannot_be_entered_beside_another(loop):
    """Whether or not somebody has looked which task is current."""
    refused = "does not match" if sys.version_info < (3, 14) else "Invalid attempt to leave task"  # asyncio's own words

    async def main(looks):
        me = asyncio.current_task() if looks else None
        other = loop.create_task(value())
        with pytest.raises(RuntimeError, match="while another task"):
            asyncio.tasks._enter_task(loop, other)
        with pytest.raises(RuntimeError, match=refused):
            asyncio.tasks._leave_task(loop, other)
        await other
        return me is None or asyncio.current_task() is me

    assert loop.run_until_complete(main(False))
    assert loop.run_until_complete(main(True))
    assert asyncio.current_task(loop) is None


def test_current_task_where_the_hash_is_overridden(backend):
    class Loop(pyloop.Loop):
        def __hash__(self):
            return 1

    async def main():
        first = asyncio.current_task()
        await asyncio.sleep(0)
        return first is asyncio.current_task() is not None

    with asyncio.Runner(loop_factory=lambda: Loop(backend=backend)) as runner:
        assert runner.run(main())


def test_each_task_has_its_own_context(loop):
    async def change(text):
        variable.set(text)
        await asyncio.sleep(0)
        return variable.get()

    async def main():
        variable.set("main")
        texts = await asyncio.gather(change("a"), change("b"))
        return texts, variable.get()

    assert loop.run_until_complete(main()) == (["a", "b"], "main")
    assert variable.get() == "unset"


def test_a_given_context_is_used_and_returned(loop):
    context = contextvars.copy_context()

    async def change():
        variable.set("given")

    task = loop.create_task(change(), context=context)
    loop.run_until_complete(task)
    assert task.get_context() is context
    assert context[variable] == "given"


def test_names_are_numbered_given_and_changed(loop):
    task = loop.create_task(value(), name="named")
    other = loop.create_task(value())
    assert task.get_name() == "named"
    assert other.get_name().startswith("Task-")
    other.set_name(17)
    assert other.get_name() == "17"
    loop.run_until_complete(asyncio.gather(task, other))


def test_all_tasks_knows_them_until_they_are_done(loop):
    tasks = {loop.create_task(forever(loop)) for _ in range(3)}
    assert asyncio.all_tasks(loop) == tasks
    turn(loop)
    assert asyncio.all_tasks(loop) == tasks
    one = tasks.pop()
    one.cancel()
    turn(loop)
    assert asyncio.all_tasks(loop) == tasks
    for task in tasks:
        task.cancel()
    turn(loop)
    turn(loop)
    assert asyncio.all_tasks(loop) == set()


def test_all_tasks_separates_loops(new_loop):
    first, second = new_loop(), new_loop()
    task = first.create_task(value())
    assert asyncio.all_tasks(first) == {task}
    assert asyncio.all_tasks(second) == set()
    first.run_until_complete(task)


def test_all_tasks_holds_our_tasks_and_asyncios_own(loop):
    ours, theirs = loop.create_task(value()), asyncio.Task(value(), loop=loop)
    assert asyncio.all_tasks(loop) == {ours, theirs}
    loop.run_until_complete(asyncio.gather(ours, theirs))


def test_asyncio_run_cancels_what_is_left():
    left = []

    async def main():
        left.append(asyncio.create_task(forever(asyncio.get_running_loop())))
        await asyncio.sleep(0)

    pyloop.run(main())
    assert left[0].cancelled()


def test_eager_start_that_finishes_needs_no_turn(loop):
    async def main():
        ran = []

        async def child():
            ran.append(asyncio.current_task())
            assert asyncio.current_task() in asyncio.all_tasks()
            return 5

        me = asyncio.current_task()
        task = loop.create_task(child(), eager_start=True)
        assert ran == [task]
        assert asyncio.current_task() is me
        assert task.done() and task.result() == 5
        assert task not in asyncio.all_tasks()
        return await task

    assert loop.run_until_complete(main()) == 5


def test_eager_start_that_suspends_goes_on_as_usual(loop):
    async def main():
        async def child():
            variable.set("child")
            await asyncio.sleep(0)
            return variable.get()

        task = loop.create_task(child(), eager_start=True)
        assert not task.done()
        assert task in asyncio.all_tasks()
        assert variable.get() == "unset"
        return await task

    assert loop.run_until_complete(main()) == "child"


def test_eager_start_before_the_loop_runs_waits_for_it(loop):
    ran = []

    async def child():
        ran.append(1)

    task = loop.create_task(child(), eager_start=True)
    assert ran == []
    loop.run_until_complete(task)
    assert ran == [1]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager task factories came with 3.12")
def test_eager_task_factory_takes_our_constructor(loop):
    loop.set_task_factory(asyncio.create_eager_task_factory(_core.Task))

    async def main():
        task = asyncio.create_task(value(4))
        return type(task), task.done(), await task

    assert loop.run_until_complete(main()) == (_core.Task, True, 4)


def test_cancel_reaches_through_the_chain_of_awaits(loop):
    async def outer(inner):
        await inner

    async def main():
        inner = loop.create_task(forever(loop))
        task = loop.create_task(outer(inner))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert task.cancel("reason")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("reason",)
        assert inner.cancelled() and task.cancelled()

    loop.run_until_complete(main())


def test_cancel_before_the_first_step(loop):
    task = loop.create_task(value())
    assert task.cancel()
    assert task._must_cancel
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_cancelling_counts_and_uncancel_takes_back(loop):
    async def main():
        task = asyncio.current_task()
        task.cancel()
        task.cancel()
        assert task.cancelling() == 2
        assert task.uncancel() == 1
        assert task.uncancel() == 0
        assert task.uncancel() == 0
        # Since 3.13 the request itself is gone, too.
        assert task._must_cancel is (sys.version_info < (3, 13))
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return "cancelled"
        return "went on"

    expected = "cancelled" if sys.version_info < (3, 13) else "went on"
    assert loop.run_until_complete(main()) == expected


def test_a_very_long_chain_is_cancelled_without_a_crash(loop):
    async def link(inner):
        await inner

    async def main():
        last = task = loop.create_task(forever(loop))
        for _ in range(200):
            task = loop.create_task(link(task))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert last.cancelled()

    loop.run_until_complete(main())


def test_timeout_and_task_group(loop):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await loop.create_future()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(value(i)) for i in range(100)]
        return sum(task.result() for task in tasks)

    assert loop.run_until_complete(main()) == 4950


def test_awaiting_itself_another_loop_and_nonsense_are_errors(loop, new_loop):
    other = new_loop()

    class Yield:
        def __init__(self, what):
            self.what = what

        def __await__(self):
            yield self.what

    async def itself():
        await asyncio.current_task()

    async def another():
        await other.create_future()

    async def nonsense():
        await Yield(17)

    async def generator():
        await Yield(i for i in ())

    for make, text in ((itself, "Task cannot await on itself"), (another, "attached to a different loop"),
                       (nonsense, "Task got bad yield: 17"),
                       (generator, "yield was used instead of yield from for generator")):
        with pytest.raises(RuntimeError, match=text):
            loop.run_until_complete(make())


def test_a_coroutine_is_expected(loop):
    with pytest.raises(TypeError, match="a coroutine was expected, got 3"):
        loop.create_task(3)
    with pytest.raises(TypeError, match="a coroutine was expected, got 3"):
        _core.Task(3, loop=loop)


def test_results_cannot_be_set_from_outside(loop):
    task = loop.create_task(value())
    with pytest.raises(RuntimeError, match="Task does not support set_result operation"):
        task.set_result(1)
    with pytest.raises(RuntimeError, match="Task does not support set_exception operation"):
        task.set_exception(ValueError())
    loop.run_until_complete(task)


def test_a_pending_task_that_dies_is_reported(loop, reports):
    task = loop.create_task(forever(loop))
    turn(loop)
    assert not task.done()
    del task
    gc.collect()
    assert [r["message"] for r in reports] == ["Task was destroyed but it is pending!"]
    reports.clear()


def test_an_exception_nobody_asked_for_is_reported(loop, reports):
    async def fail():
        raise ValueError("lost")

    task = loop.create_task(fail())
    turn(loop)
    assert task.done()
    del task
    gc.collect()
    assert [r["message"] for r in reports] == ["Task exception was never retrieved"]
    reports.clear()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_leave_the_loop_and_stay_in_the_task(loop, kind):
    async def fail():
        raise kind()

    task = loop.create_task(fail())
    with pytest.raises(kind):
        loop.run_forever()
    assert isinstance(task.exception(), kind)


def test_stacks_are_listed_and_printed(loop):
    task = loop.create_task(forever(loop))
    turn(loop)
    (frame,) = task.get_stack()
    assert frame.f_code is forever.__code__
    text = io.StringIO()
    task.print_stack(file=text)
    assert "in forever" in text.getvalue()
    task.cancel()
    turn(loop)
    assert task.get_stack() == []


def test_a_coroutine_that_yields_none_gives_up_one_turn(loop):
    class Bare:
        def __await__(self):
            yield

    async def main():
        seen = []
        loop.call_soon(seen.append, 1)
        await Bare()
        return seen

    assert loop.run_until_complete(main()) == [1]


def test_a_set_result_from_another_thread_is_not_lost(new_loop):
    loop = new_loop()

    async def main():
        future = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, 9))
        thread.start()
        result = await future
        thread.join()
        return result

    assert loop.run_until_complete(main()) == 9


def test_close_drops_queued_steps_without_leaking_the_task(new_loop, reports):
    loop = new_loop()
    coro = value()
    task = loop.create_task(coro)
    watch = weakref.ref(task)
    loop.close()
    coro.close()
    del task
    gc.collect()
    assert [r["message"] for r in reports] == ["Task was destroyed but it is pending!"]
    reports.clear()  # it held the task
    gc.collect()
    assert watch() is None


def test_a_cycle_of_loop_and_task_is_collected(backend):
    loop = pyloop.Loop(backend=backend)
    task = loop.create_task(value())
    task._log_destroy_pending = False
    loop.owner_of = task
    watch = weakref.ref(task)
    loop.close()
    task.get_coro().close()
    del loop, task
    gc.collect()
    assert watch() is None


def test_works_on_asyncios_loop():
    loop = asyncio.SelectorEventLoop()
    loop.set_task_factory(lambda loop, coro, **options: _core.Task(coro, loop=loop, **options))

    async def main():
        await asyncio.sleep(0)
        return type(asyncio.current_task()), await asyncio.gather(value(1), value(2))

    try:
        assert loop.run_until_complete(main()) == (_core.Task, [1, 2])
    finally:
        loop.close()


def test_nothing_accumulates(new_loop):
    """Blocks in use after many rounds of everything are the ones after a few. Debug mode caches tracebacks."""
    loop = new_loop()
    loop.set_debug(False)

    async def rounds(count):
        for _ in range(count):
            await loop.create_task(value())
            await asyncio.gather(*[value(i) for i in range(5)])
            task = loop.create_task(forever(loop))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await loop.create_task(value(), eager_start=True)
            future = loop.create_future()
            future.set_exception(ValueError())
            await asyncio.gather(future, return_exceptions=True)

    def blocks_after(count):
        loop.run_until_complete(rounds(count))
        gc.collect()
        return sys.getallocatedblocks()

    blocks_after(300)
    before = blocks_after(300)
    assert blocks_after(900) - before < 100
