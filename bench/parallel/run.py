"""Measures two workers against one on a free-threaded interpreter, each sample in a child process.

The load is made in the process itself. `threads` is the ceiling: the same coroutines driven by
plain threads, without a loop; what it loses is the interpreter's. `X a thread` is one loop a
thread, which is what there is without parallel mode.
"""

from __future__ import annotations

import json
import os
import subprocess

from bench.common import (
    LOOPS,
    ROOT,
    BenchError,
    Plan,
    Sample,
    chosen,
    interleave,
    loop_problem,
    run_python,
)
from bench.parallel import handlers

BASELINE = "threads"
PARALLEL = tuple(name for name in LOOPS if name.startswith("pyloop-"))
VARIANTS = (BASELINE, *(f"{name} a thread" for name in LOOPS), *PARALLEL)
SCALING = tuple(f"{name}/{shape}" for shape in ("uniform", "skewed") for name in handlers.BY_NAME)
BALANCE = ("balance/connections", "balance/heavy")
CASES = (*SCALING, *BALANCE)
SECONDS = 0.25
QUICK_SECONDS = 0.05
TIMEOUT_SECONDS = 60.0


def measure(variant: str, case: str, plan: Plan) -> Sample:
    """One sample of one variant."""
    seconds = min(plan.seconds, QUICK_SECONDS if plan.quick else SECONDS)
    cores = {plan.cores.server, plan.cores.client}
    child = subprocess.run(
        [plan.python, "-m", "bench.parallel.child", variant, case, str(seconds)],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    if child.returncode != 0:
        raise BenchError(f"{variant} {case}: {child.stderr.strip()}")
    result = json.loads(child.stdout)
    return Sample(case, variant, 0, result["metrics"], result["others"])


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
        samples += interleave(
            plan, case, able, lambda name, case=case: measure(name, case, plan)
        )
    return samples
