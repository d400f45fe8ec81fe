"""Who awaits whom, from Python 3.14 on: asyncio.capture_call_graph() with pyloop's tasks and futures."""

import asyncio

import pytest

from pyloop import _core

pytestmark = pytest.mark.skipif(not hasattr(asyncio, "capture_call_graph"), reason="call graphs came with 3.14")


def names_of(entries):
    return [entry.frame.f_code.co_name for entry in entries]


def parents_of(graph):
    return sorted(parent.future.get_name() for parent in graph.awaited_by)


def by_wait(tasks):
    return asyncio.wait(tasks)


def by_gather(tasks):
    return asyncio.gather(*tasks)


async def by_group(tasks):
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(wait_for_task(task), name="member")


async def wait_for_task(task):
    await task


@pytest.mark.parametrize("wait, expected", [(by_wait, ["parent"]), (by_gather, ["parent"]), (by_group, ["member"])])
def test_children_know_who_waits(run, wait, expected):
    async def inner(release):
        await release

    async def child(release):
        await inner(release)

    async def main():
        loop = asyncio.get_running_loop()
        asyncio.current_task().set_name("parent")
        release = loop.create_future()
        tasks = [loop.create_task(child(release), name=f"child {i}") for i in range(2)]
        graphs = []

        def look():
            graphs.extend(asyncio.capture_call_graph(task) for task in tasks)
            graphs.append(asyncio.capture_call_graph(release))
            release.set_result(None)

        loop.call_later(0.01, look)
        await wait(tasks)
        for graph in graphs[:2]:
            assert names_of(graph.call_stack) == ["inner", "child"]
            assert parents_of(graph) == expected
        assert parents_of(graphs[2]) == ["child 0", "child 1"]
        assert all(task._asyncio_awaited_by is None for task in tasks)  # nobody waits any more

    run(main())


class DerivedFuture(_core.Future):
    pass


class DerivedTask(_core.Task):
    pass


@pytest.mark.parametrize("ending", ["result", "cancel"])
@pytest.mark.parametrize("kind", ["future", "task"])
def test_who_awaits_an_object_of_a_derived_class(run, kind, ending):
    async def wait_for(awaited):
        return await awaited

    async def main():
        loop = asyncio.get_running_loop()
        released = awaited = DerivedFuture(loop=loop)
        if kind == "task":
            awaited = DerivedTask(wait_for(released), loop=loop)
        tasks = [loop.create_task(wait_for(awaited), name=f"waiter {i}") for i in range(3)]
        await asyncio.sleep(0)
        assert parents_of(asyncio.capture_call_graph(awaited)) == ["waiter 0", "waiter 1", "waiter 2"]
        if ending == "result":
            released.set_result("value")
        else:
            awaited.cancel()
        done, _ = await asyncio.wait(tasks)
        assert [task.cancelled() for task in done] == [ending == "cancel"] * 3
        assert awaited._asyncio_awaited_by is None and released._asyncio_awaited_by is None

    run(main())


def test_graph_of_the_running_task(run):
    async def leaf():
        return asyncio.capture_call_graph(), asyncio.format_call_graph()

    async def main():
        child = asyncio.create_task(leaf(), name="leaf task")
        asyncio.current_task().set_name("root task")
        graph, text = await child
        assert graph.future is child
        assert names_of(graph.call_stack)[-1] == "leaf"
        assert parents_of(graph) == ["root task"]
        assert "leaf task" in text and "root task" in text

    run(main())
