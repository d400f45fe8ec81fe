#!/usr/bin/env python3
"""Run the interpreter's own tests of futures, tasks, streams, locks and queues against pyloop's types.

    python tests/cpython/run_tasks.py [-v] [--only task|future] [--loop pyloop] [PATTERN ...]

tools/test does it for an interpreter by the step cpython-types/TAG, for 3.14 and 3.15 by matrix/TAG/types.
Our types take the place of asyncio's C types before the test modules are imported: asyncio.Future and asyncio.Task,
what the stock loop creates, and the `cls`, `Task` and `Future` of the base classes in test_futures and
test_tasks; our streams, locks and queues take the place of asyncio's under its public names. What is skipped is
listed here with its reason; such a test runs all the same, and it is an error if it passes. --only replaces one of
Future and Task, so that it meets asyncio's own other half. The loop is asyncio's; with --loop pyloop it is ours, and
not in debug mode, so that steps take the short way. PATTERN is matched against `test_tasks.Class.test_name`,
wildcards allowed.
Last line: N passed, N failed, N skipped. Exit status 1 if anything failed.
"""

import argparse
import fnmatch
import importlib
import sys
import time
import unittest

import asyncio
import asyncio.futures
import asyncio.tasks

from inject import install as install_loop
from pyloop import _core, _streams, sync

MODULES = ["test_futures", "test_futures2", "test_tasks", "test_taskgroups", "test_timeouts", "test_waitfor",
           "test_eager_task_factory", "test_locks", "test_queues", "test_runners", "test_streams", "test_graph"]

# pattern: reason
SKIPS = {
    "test_graph.TestCallStack*.test_stack_as_completed*": "names the frames of asyncio's queue; ours has one more",
    "test_queues.QueueGetTests.test_get_with_putters": "puts a future of its own among the putters",
}
# What cannot even be tried.
NOT_RUN = {
    "test_locks.ConditionTests.test_ambiguous_loops": "a second loop is no error for our locks: they wait",
}
# The same for --only: asyncio's Task is no subclass of our Future, nor ours of asyncio's.
SKIPS_MIXED = {
    "test_tasks.GenericTaskTests.test_future_subclass": "issubclass(Task, Future) holds within one implementation",
    "test_tasks.CTask_CFuture_Tests.test_set_*_causes_invalid_state": "calls Future.set_result(task) unbound",
}


def inject(only):
    """Make our types the ones that asyncio and its tests take for the C implementation."""
    _streams.install()
    sync._install()
    if only != "task":
        asyncio.futures.Future = asyncio.futures._CFuture = asyncio.Future = _core.Future
    if only == "future":
        return
    asyncio.tasks.Task = asyncio.tasks._CTask = asyncio.Task = _core.Task
    if hasattr(asyncio, "create_eager_task_factory"):
        factory = asyncio.tasks.create_eager_task_factory(_core.Task)
        asyncio.eager_task_factory = asyncio.tasks.eager_task_factory = factory


def inject_loop():
    """pyloop's loop for all tests; IsolatedAsyncioTestCase would switch debug mode on."""
    install_loop("pyloop")
    MODULES.remove("test_runners")  # it checks asyncio's runner with a loop that is a mock

    def setup_runner(self):
        self._asyncioRunner = asyncio.Runner()

    unittest.IsolatedAsyncioTestCase._setupAsyncioRunner = setup_runner


def all_cases(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from all_cases(item)
        else:
            yield item


def load(patterns):
    loader = unittest.TestLoader()
    for name in MODULES:
        try:
            module = importlib.import_module("test.test_asyncio." + name)
        except ModuleNotFoundError:
            continue
        for case in all_cases(loader.loadTestsFromModule(module)):
            identity = case.id().removeprefix("test.test_asyncio.")
            if not patterns or any(fnmatch.fnmatchcase(identity, "*" + p + "*") for p in patterns):
                yield identity, case


def skip_reason(identity, skips):
    for pattern, reason in skips.items():
        if fnmatch.fnmatchcase(identity, pattern):
            return reason
    return None


def problems(result):
    return [text for _, text in result.errors + result.failures] + ["unexpected success"] * len(
        result.unexpectedSuccesses)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--only", choices=["task", "future"])
    parser.add_argument("--loop", choices=["asyncio", "pyloop"], default="asyncio")
    parser.add_argument("patterns", nargs="*")
    options = parser.parse_args()
    inject(options.only)
    if options.loop == "pyloop":
        inject_loop()
    skips = {**SKIPS, **(SKIPS_MIXED if options.only else {})}
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for identity, case in load(options.patterns):
        if (reason := skip_reason(identity, NOT_RUN)) is not None:
            counts["skipped"] += 1
            continue
        started = time.monotonic()
        result = unittest.TestResult()
        case.run(result)
        reason = skip_reason(identity, skips)
        texts = problems(result)
        if reason is not None and texts:
            outcome = "skipped"
        elif reason is not None:
            outcome, texts = "failed", ["passes, so it must leave the list of skips"]
        elif texts:
            outcome = "failed"
        else:
            outcome = "skipped" if result.skipped else "passed"
            reason = result.skipped[0][1] if result.skipped else None
        counts[outcome] += 1
        if outcome == "failed":
            print(f"FAIL {identity}")
            print("\n".join(texts))
        elif options.verbose:
            print(f"{outcome:7} {identity} {time.monotonic() - started:.2f}s {reason or ''}", flush=True)
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
