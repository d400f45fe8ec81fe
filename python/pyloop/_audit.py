"""PYLOOP_AUDIT=1: which strand touches which object of a loop.

A race detector for asyncio programs. Every call of a method of a task, future, transport, stream, server or
primitive of asyncio is recorded with the strand that makes it; an object that two strands touch is reported once
with both stacks, through the logger "pyloop.audit". A strand is what asyncio's guarantees hold within: a loop, or
in parallel mode what pyloop.spawn() started together with all that it created; code outside of loops counts by
its thread. What is made for such use is exempt: call_soon_threadsafe() belongs to the loop, which is not
watched, and pyloop's own futures, tasks and transports may be used between the strands of one runtime.

Calls are seen by sys.monitoring, in all threads: CPython 3.12 and later. A program runs several times slower.
Implicit uses that call no method (`await future`) are not seen.
"""

import asyncio
import contextvars
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
_HARMLESS = frozenset(("__init__", "__new__", "__repr__", "__str__", "__hash__", "__eq__", "__class__", "__del__",
                       "cancelled", "done", "get_extra_info", "get_loop", "_get_loop", "get_name", "is_closing",
                       "is_serving"))

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
        self.runtime = getattr(loop, "_first_view", None) and weakref.ref(loop._first_view)
        self.calls = []
        while frame is not None and len(self.calls) < STACK_LIMIT:
            self.calls.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            frame = frame.f_back

    def conflicts_with(self, other, is_ours):
        """Would the two be a race: other strands, or other threads where code runs outside of any.

        is_ours: the object is made for all strands of one runtime.
        """
        if is_ours and self.runtime is not None and self.runtime is other.runtime:
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
    # A weak reference without a callback is one object for each loop.
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
        """Watch every call of the process. RuntimeError: before CPython 3.12, or no tool number is free."""
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
        monitoring.set_events(self._tool, monitoring.events.CALL)

    def stop(self):
        """Watch no more."""
        sys.monitoring.set_events(self._tool, 0)
        sys.monitoring.register_callback(self._tool, sys.monitoring.events.CALL, None)
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
                self._touch(target, name, Use(frame), self._is_part(frame, target))

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

    def _touch(self, target, name, use, is_part):
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
        elif not is_part and use.conflicts_with(first, isinstance(target, _SHARED)):
            self._first[key] = entry[0], None
            self._report(target, name, first, use)

    def _report(self, target, name, first, use):
        places = first.calls[0], use.calls[0]
        if places in self._told:
            return
        self._told.add(places)
        text = (f"{type(target).__name__}.{name}() on {target!r} by another strand than its own\n"
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
