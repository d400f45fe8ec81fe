"""What asyncio has to know of pyloop's tasks: asyncio.all_tasks() and, from Python 3.14 on, the call graph."""

import asyncio
import sysconfig
import weakref
from asyncio import events, futures, tasks

from . import _core

try:
    import _asyncio
except ImportError:
    _asyncio = None


class _ScheduledTasks(weakref.WeakSet):
    """asyncio's registry of tasks, which also shows the ones that the extension keeps in a list of its own.

    A weak reference, an entry in a set and a callback in Python for each task would cost as much as the rest of
    creating it. The registry keeps its identity, so that whoever holds it sees the same: only its class changes.
    """

    def __iter__(self):
        yield from super().__iter__()
        yield from _core._registered_tasks()

    def __len__(self):
        return super().__len__() + len(_core._registered_tasks())

    def __contains__(self, item):
        return super().__contains__(item) or any(item is task for task in _core._registered_tasks())


class _ScheduledTasksAndOwn(weakref.WeakSet):
    """asyncio's registry of tasks, which also shows the one that the caller runs in.

    A task that starts with its first step, as of a request or a spawned coroutine, is entered in the registry
    when that ends, so that one which never waits touches nothing that threads share.
    """

    def __iter__(self):
        yield from super().__iter__()
        loop = events._get_running_loop()
        task = None if loop is None else tasks.current_task(loop)
        if isinstance(task, _core.Task):
            yield task


def _registry_of_all_tasks():
    """The set that asyncio.all_tasks() reads, or None if it cannot be reached.

    Up to 3.13 the C module exports it. From 3.14 on it keeps it to itself, and the set of the same name in
    asyncio.tasks belongs to the implementation in Python, which nobody asks.
    """
    for name in ("_scheduled_tasks", "_all_tasks"):  # the latter in 3.11
        registry = getattr(tasks, name, None)
        if registry is not None and registry is getattr(_asyncio, name, None):
            return registry
    return None


def _adopt_registry():
    registry = _registry_of_all_tasks()
    if type(registry) is not weakref.WeakSet:  # an asyncio changed by others
        return
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        registry.__class__ = _ScheduledTasksAndOwn  # the list has no lock
    else:
        registry.__class__ = _ScheduledTasks
        _core._use_own_registry()


def _with_ours(original, ours):
    def call(future, waiter, /):
        ours(future, waiter)
        original(future, waiter)

    call.__name__ = call.__qualname__ = original.__name__
    call.__doc__ = original.__doc__
    return call


def _adopt_call_graph():
    # asyncio's functions ignore futures that are not its own.
    for name, ours in (("future_add_to_awaited_by", _core._awaited_by_add),
                       ("future_discard_from_awaited_by", _core._awaited_by_discard)):
        original = getattr(futures, name, None)
        if original is not None:
            patched = _with_ours(original, ours)
            setattr(futures, name, patched)
            setattr(asyncio, name, patched)
        for kept in ("_c_" + name, "_py_" + name):  # where asyncio keeps both implementations
            original = getattr(futures, kept, None)
            if original is not None:
                setattr(futures, kept, _with_ours(original, ours))


_adopt_registry()
_adopt_call_graph()
