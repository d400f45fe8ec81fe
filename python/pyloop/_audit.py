"""PYLOOP_AUDIT=1: which strand touches which object of a loop.

A race detector for asyncio programs. Every call of a method of a task, future, transport, stream, server or
primitive of asyncio, and every `await` that waits for a future or task, is recorded with the strand that does it; an
object that two strands touch is reported once with both stacks, through the logger "pyloop.audit". A strand is what
asyncio's guarantees hold within: a loop, or what pyloop.spawn() started together with all that it created; code
outside of loops counts by its thread. What is made for such use is exempt: call_soon_threadsafe() belongs to the
loop, which is not watched; pyloop's own futures, tasks and transports may be used between the strands of one loop,
in parallel mode or not, and so may what pyloop.spawn() returns.

Calls, and what a coroutine yields to its task, are seen by sys.monitoring, in all threads and with any kind of task:
CPython 3.12 and later. A program runs several times slower. An `await` of what is done already is not seen: nothing
is waited for.
"""

import asyncio
import contextvars
import inspect
import logging
import sys
import threading
import traceback
import types
import weakref
from asyncio import events, mixins

from . import _core, _parallel

logger = logging.getLogger("pyloop.audit")

# Set by pyloop.spawn() in the strand's context; what the strand creates inherits it.
strand_variable = contextvars.ContextVar("pyloop_strand")

STACK_LIMIT = 12
_TOOL_NAME = "pyloop.audit"
_WATCHED = (asyncio.Future, asyncio.BaseTransport, asyncio.StreamReader, asyncio.StreamWriter,
            asyncio.AbstractServer, mixins._LoopBoundMixin, _core.Future, _core.Task, _core.SpawnedTask)
_SHARED = (_core.Future, _core.Task, _core.SpawnedTask, _core.StreamTransport)
# Pure questions; asyncio itself asks some of them from other threads.
_QUESTIONS = ("__init__", "__new__", "__repr__", "__str__", "__hash__", "__eq__", "__class__", "__del__", "cancelled",
              "done", "get_extra_info", "get_loop", "_get_loop", "get_name", "is_closing", "is_serving")
# `async with lock` is an acquire() and a release(): CPython 3.14 shows the calls of these two as well.
_WITH = ("__aenter__", "__aexit__")
_HARMLESS = frozenset(_QUESTIONS + _WITH)
# Code in which what is yielded is what is awaited.
_AWAITING = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE

_running = None


class Strand:
    """The mark of one strand, compared by identity."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"<Strand {self.name}>"


class Use:
    """One use of an object: by which strand, in which thread, with which calls."""

    __slots__ = ("calls", "runtime", "strand", "thread")

    def __init__(self, frame):
        loop = events._get_running_loop()
        self.thread = threading.get_ident()
        self.strand = _strand_of(loop)
        # The loop that all views are of. A weak reference without a callback is one object for each loop.
        self.runtime = loop and weakref.ref(getattr(loop, "_first_view", None) or loop)
        self.calls = []
        while frame is not None and len(self.calls) < STACK_LIMIT:
            self.calls.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            frame = frame.f_back

    def conflicts_with(self, other, is_shared):
        """Would the two be a race: other strands, or other threads where code runs outside of any.

        is_shared: the object is made for all strands of one runtime.
        """
        if is_shared and self.runtime is not None and self.runtime is other.runtime:
            return False
        if self.strand is None or other.strand is None:
            return self.thread != other.thread
        return self.strand is not other.strand

    def __str__(self):
        strand = "no loop" if self.strand is None else self.strand
        if isinstance(strand, weakref.ref):
            strand = strand() or "a loop that is gone"
        summary = traceback.StackSummary.from_list(
            [traceback.FrameSummary(*call) for call in reversed(self.calls)])
        return f"{strand} in thread {self.thread}:\n{''.join(summary.format())}"


def _strand_of(loop):
    """What runs here, comparable by identity: a strand's mark, a weak reference to the loop, or None."""
    if loop is None:
        return None
    return strand_variable.get(None) or weakref.ref(loop)


class Audit:
    """The recorder. reports: the texts of what was found, in order."""

    def __init__(self):
        self.reports = []
        self._tool = None
        self._first = {}  # id -> (weak reference, first use; None once it was reported)
        self._told = set()  # the places of both uses of every report
        self._watched = {}  # type -> bool; threads may write one entry twice, with the same value

    def start(self):
        """Watch every call and await of the process. RuntimeError: before CPython 3.12, or no tool number is free."""
        if sys.version_info < (3, 12):
            raise RuntimeError("PYLOOP_AUDIT needs CPython 3.12 or later (sys.monitoring)")
        monitoring = sys.monitoring
        # 0, 1, 2 and 5 are reserved for debuggers, coverage, profilers and optimizers.
        for self._tool in (3, 4):
            if monitoring.get_tool(self._tool) is None:
                break
        else:
            raise RuntimeError("PYLOOP_AUDIT: other tools use all of sys.monitoring")
        monitoring.use_tool_id(self._tool, _TOOL_NAME)
        monitoring.register_callback(self._tool, monitoring.events.CALL, self._on_call)
        monitoring.register_callback(self._tool, monitoring.events.PY_YIELD, self._on_yield)
        monitoring.set_events(self._tool, monitoring.events.CALL | monitoring.events.PY_YIELD)

    def stop(self):
        """Watch no more."""
        sys.monitoring.set_events(self._tool, 0)
        for event in (sys.monitoring.events.CALL, sys.monitoring.events.PY_YIELD):
            sys.monitoring.register_callback(self._tool, event, None)
        sys.monitoring.free_tool_id(self._tool)

    def _on_call(self, code, offset, function, first_argument):
        name = getattr(function, "__name__", None)
        target = getattr(function, "__self__", None)
        if target is None or isinstance(target, types.ModuleType):
            target = first_argument
        kind = type(target)
        # A function that merely gets such an object as its first argument is no method of it.
        if self._is_watched(kind) and name not in _HARMLESS and hasattr(kind, name):
            frame = sys._getframe(1)
            if frame.f_code.co_name != "__init__":  # of this object, which nobody else has yet
                self._touch(target, f"{kind.__name__}.{name}() on", Use(frame), self._is_part(frame, target))

    def _on_yield(self, code, offset, target):
        # The innermost coroutine comes first; those that await it pass the same object on, with shorter stacks.
        if not code.co_flags & _AWAITING:
            return sys.monitoring.DISABLE
        if self._is_watched(type(target)):
            frame = sys._getframe(1)
            self._touch(target, "await of", Use(frame), self._is_part(frame, target))
        return None

    def _is_watched(self, kind):
        is_watched = self._watched.get(kind)
        if is_watched is None:
            # What pyloop.sync has is asyncio's by class, and made to be shared.
            is_watched = issubclass(kind, _WATCHED) and kind.__module__ != "pyloop.sync"
            self._watched[kind] = is_watched
        return is_watched

    def _is_part(self, frame, target):
        """Is the caller a method of another watched object, whose own use is what is reported?"""
        caller = frame.f_locals.get("self", target)
        return caller is not target and self._is_watched(type(caller))

    def _is_shared(self, target):
        """Is the object made for all strands of one runtime; asyncio's own tasks are in a loop without views."""
        if isinstance(target, _SHARED):
            return True
        return isinstance(target, asyncio.Task) and getattr(target.get_loop(), "_first_view", None) is None

    def _touch(self, target, how, use, is_part):
        key = id(target)
        entry = self._first.get(key)
        if entry is None or entry[0]() is not target:
            forget = weakref.ref(target, lambda _: self._first.pop(key, None))
            self._first[key] = forget, use
            return
        first = entry[1]
        if first is None:
            return
        if first.strand is None and use.strand is not None and first.thread == use.thread:
            self._first[key] = entry[0], use  # made before its loop ran, and given to it
        elif not is_part and use.conflicts_with(first, self._is_shared(target)):
            self._first[key] = entry[0], None
            self._report(target, how, first, use)

    def _report(self, target, how, first, use):
        places = first.calls[0], use.calls[0]
        if places in self._told:
            return
        self._told.add(places)
        text = (f"{how} {target!r} by another strand than its own\n"
                f"first used by {first}now used by {use}")
        self.reports.append(text)
        logger.warning("%s", text)


def _mark_strand(name, context):
    """The context of a spawned coroutine: the given one or a copy of the current, with a mark of its own."""
    context = contextvars.copy_context() if context is None else context
    context.run(strand_variable.set, Strand(name))
    return context


def start():
    """Start the audit of this process, once; the Audit. RuntimeError: as Audit.start()."""
    global _running
    if _running is None:
        audit = Audit()
        audit.start()
        _running = audit
        _parallel.mark_strand = _mark_strand
    return _running
