"""Programs that change asyncio itself: what they put there is what our loop makes."""

import asyncio
import asyncio.futures
import asyncio.tasks

import pytest

from pyloop import _core


@pytest.fixture
def python_tasks(monkeypatch):
    """What nest_asyncio does, and CPython's tests of asyncio's implementation in Python."""
    task, future = asyncio.tasks._PyTask, asyncio.futures._PyFuture
    for module in (asyncio, asyncio.tasks):
        monkeypatch.setattr(module, "Task", task)
        monkeypatch.setattr(module, "current_task", getattr(asyncio.tasks, "_py_current_task", asyncio.current_task))
    for module in (asyncio, asyncio.futures):
        monkeypatch.setattr(module, "Future", future)
    for name in ("_get_running_loop", "_set_running_loop", "get_running_loop"):
        for module in (asyncio, asyncio.events):
            monkeypatch.setattr(module, name, getattr(asyncio.events, "_py_" + name))
    return task, future


def test_replaced_classes_are_made(loop, python_tasks):
    async def main():
        assert asyncio.get_running_loop() is loop
        assert type(asyncio.current_task()) is python_tasks[0]
        assert type(loop.create_future()) is python_tasks[1]
        child = loop.create_task(asyncio.sleep(0, "done"), name="child")
        assert type(child) is python_tasks[0]
        assert child.get_name() == "child"
        return await child

    assert loop.run_until_complete(main()) == "done"


def test_ours_again_when_asyncio_is_as_it_was(loop, monkeypatch):
    class Task(asyncio.Task):
        pass

    async def classes():
        return type(asyncio.current_task()), type(asyncio.get_running_loop().create_future())

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.tasks, "Task", Task)
        assert loop.run_until_complete(classes()) == (Task, _core.Future)
    assert loop.run_until_complete(classes()) == (_core.Task, _core.Future)


def test_a_future_made_before_the_run(loop, monkeypatch):
    class Future(asyncio.Future):
        pass

    monkeypatch.setattr(asyncio.futures, "Future", Future)
    assert type(loop.create_future()) is Future
    monkeypatch.undo()
    assert type(loop.create_future()) is _core.Future
