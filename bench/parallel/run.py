"""Measures two workers against one on a free-threaded interpreter, each variant in a child process.

The children of a round live side by side and take turns of some 0.2 s: two virtual cores are at times one real
core for seconds, and both sides of a ratio must have seen the same machine.

The load is made in the process itself. `threads` is the ceiling: the same coroutines driven by
plain threads, without a loop; what it loses is the interpreter's. `X a thread` is one loop a
thread, which is what there is without parallel mode.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from bench.common import (
    LOOPS,
    BenchError,
    CommandProcess,
    Plan,
    Sample,
    chosen,
    loop_problem,
    run_python,
    say,
)
from bench.parallel import handlers

BASELINE = "threads"
PARALLEL = tuple(name for name in LOOPS if name.startswith("pyloop-"))
VARIANTS = (BASELINE, *(f"{name} a thread" for name in LOOPS), *PARALLEL)
SCALING = tuple(f"{name}/{shape}" for shape in ("uniform", "skewed") for name in handlers.BY_NAME)
BALANCE = ("balance/connections", "balance/heavy")
CASES = (*SCALING, *BALANCE)
SECONDS = 0.1  # of one worker in one turn
QUICK_SECONDS = 0.05
TURNS = 10  # of a round


def alternate(plan: Plan, case: str, names: list[str]) -> Iterator[Sample]:
    """Rounds of fresh children side by side; a turn is what ratios are formed within."""
    turns = 1 if plan.quick or case in BALANCE else TURNS
    seconds = min(plan.seconds, QUICK_SECONDS if plan.quick else SECONDS)
    cores = {plan.cores.server, plan.cores.client}
    started = time.monotonic()
    for number in range(plan.pairs):
        if plan.budget is not None and not plan.budget.has_time(number, started):
            break
        with contextlib.ExitStack() as stack:
            children = {}
            for name in names:
                argv = [plan.python, "-m", "bench.parallel.child", name, case, str(seconds)]
                children[name] = stack.enter_context(CommandProcess(argv, cores))
            for turn in range(number * turns, (number + 1) * turns):
                shift = turn % len(names)
                for name in names[shift:] + names[:shift]:
                    result = children[name].command("turn")
                    yield Sample(case, name, turn, result["metrics"], result["others"])
        say(f"  {case}  round {number + 1}/{plan.pairs}")


def problem(variant: str, python: str) -> str | None:
    if variant == BASELINE:
        return None
    return loop_problem(variant.removesuffix(" a thread"), python)


def check_interpreter(plan: Plan) -> None:
    code = "import sysconfig; print(sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"
    if run_python(["-c", code], plan.python).strip() != "1":
        raise BenchError("parallel: needs a free-threaded interpreter, see --python")
    if plan.cores.shared:
        raise BenchError("parallel: needs two cores")


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    check_interpreter(plan)
    cases = plan.cases or CASES
    for case in cases:
        if case not in CASES:
            raise BenchError(f"unknown case {case!r}: {', '.join(CASES)}")
    names = chosen(plan, VARIANTS, BASELINE, problem)
    samples: list[Sample] = []
    for case in plan.each(cases):
        able = [name for name in names if case in SCALING or name in PARALLEL]
        samples += alternate(plan, case, able)
    return samples
