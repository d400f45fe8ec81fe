"""Measures single operations of a loop, each sample in a child process of its own.

One core: the child alone is on the server's. A timed window, then a short one under the system
call tracepoint.
"""

from __future__ import annotations

import json
import os
import subprocess

from bench import counters, targets
from bench.common import (
    LOOPS,
    BenchError,
    Plan,
    Sample,
    Server,
    chosen,
    interleave,
    loop_problem,
)
from bench.micro import cases

BASELINE = "uvloop"
SECONDS = 0.25
QUICK_SECONDS = 0.05
CACHEGRIND_OPERATIONS = 3_000
QUICK_CASES = ("call_soon", "sleep_0", "create_task")


class Child(Server):
    """A child that waits for "run SECONDS"."""

    def __init__(self, variant: str, case: str, plan: Plan, env: dict[str, str] | None = None):
        argv = [plan.python, "-m", "bench.micro.child", variant, case]
        super().__init__(argv, plan.cores.server, env, stdin=subprocess.PIPE)
        if self._line() != "ready":
            self._die("did not get ready")

    def _line(self) -> str:
        return self.process.stdout.readline().decode().strip()

    def run(self, seconds: float) -> dict:
        self.process.stdin.write(f"run {seconds}\n".encode())
        self.process.stdin.flush()
        line = self._line()
        if not line:
            self._die("ended early")
        return json.loads(line)

    def stop(self) -> str:
        self.process.stdin.close()  # the end of its input is the end of its work
        return super().stop()


def measure(
    variant: str, case: str, plan: Plan, env: dict[str, str] | None = None,
    partner: Server | None = None, seconds: float = SECONDS,
) -> Sample:  # fmt: skip
    """One sample of one variant. `partner` is what the child talks to, on the client's core."""
    if plan.quick:
        seconds = QUICK_SECONDS
    with Child(variant, case, plan, env) as child:
        events = counters.HARDWARE if counters.hardware_problem() is None else ()
        partners = tuple(partner.pids()) if partner is not None else ()
        with counters.Window(child, plan.cores, events, partners) as window:
            result = child.run(seconds)
        metrics = window.per(result["operations"])
        metrics["ns"] = result["wall_ns"] / result["operations"]
        if plan.counts_syscalls() and not counters.syscalls_problem():
            with counters.Window(child, plan.cores, (counters.SYSCALLS,)) as counted:
                result = child.run(seconds / 5)
            metrics["syscalls"] = counted.per(result["operations"])["syscalls"]
    return Sample(case, variant, 0, metrics, window.disturbed)


def cachegrind(variant: str, case: str, plan: Plan) -> float:
    """User instructions of an operation, by two runs under Cachegrind."""

    def run(operations: int) -> int:
        tool = counters.Cachegrind()
        argv = [plan.python, "-m", "bench.micro.child", variant, case, str(operations)]
        try:
            child = subprocess.run(
                tool.command(argv), capture_output=True, text=True,
                env={**os.environ, **counters.CACHEGRIND_ENVIRONMENT},
                timeout=counters.CACHEGRIND_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BenchError("does not end under Valgrind") from None
        if child.returncode != 0:
            raise BenchError(f"{variant} {case} under Cachegrind: {child.stderr.strip()}")
        return tool.instructions()

    return counters.instructions_per(run, CACHEGRIND_OPERATIONS)


def counted(case: str, names: list[str], plan: Plan) -> list[str]:
    """What Cachegrind counts; where the kernel does the work it has nothing to say."""
    return [] if case in targets.KERNEL_BOUND else counters.counted(plan, "micro", case, names)


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    wanted = plan.cases or (QUICK_CASES if plan.quick else [c.__name__ for c in cases.MAIN])
    if list(wanted) == ["full"] or (plan.budget is not None and not plan.cases):
        wanted = list(cases.BY_NAME)
    for case in wanted:
        if case not in cases.BY_NAME:
            raise BenchError(f"unknown case {case!r}: {', '.join(cases.BY_NAME)}")
    names = chosen(plan, LOOPS, BASELINE, loop_problem)
    samples: list[Sample] = []
    for case in plan.each(wanted):
        found = list(
            interleave(plan, case, names, lambda name, case=case: measure(name, case, plan))
        )
        counters.add_instructions(
            plan, found, counted(case, names, plan),
            lambda name, case=case: cachegrind(name, case, plan),
        )  # fmt: skip
        samples += found
    return samples
