"""Measures crossings between coroutines and native code, as micro measures operations of a loop.

`tokio-asyncio` and `tokio-uvloop` are pyo3-async-runtimes on those loops; they take part in the cases
of tasks where cargo can build bench/native/tokio.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

from bench.common import (
    C_BINARIES,
    LOOPS,
    ROOT,
    BenchError,
    Plan,
    Sample,
    build_extension,
    chosen,
    interleave,
    loop_problem,
    say,
)
from bench.micro import run as micro
from bench.native import cases

BASELINE = "uvloop"
TOKIO = ("tokio-asyncio", "tokio-uvloop")
TOKIO_CASES = ("task", "task_100")
TOKIO_SOURCE = ROOT / "bench" / "native" / "tokio"
CARGO_SECONDS = 600
QUICK_CASES = ("call", "task", "promise")
BY_NAME = {case.__name__: case for case in cases.MAIN}


def build_tokio(python: str, folder: Path) -> str | None:
    """Puts bench_tokio into the folder: None, or why not."""
    if shutil.which("cargo") is None:
        return "no cargo"
    target = C_BINARIES / "tokio"
    try:
        built = subprocess.run(
            ["cargo", "build", "--release", "--quiet", "--target-dir", target],
            cwd=TOKIO_SOURCE, capture_output=True, text=True, timeout=CARGO_SECONDS,
            env={**os.environ, "PYO3_PYTHON": python},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"cargo does not end in {CARGO_SECONDS} s"
    if built.returncode != 0:
        return "cargo: " + (built.stderr.strip().splitlines() or ["failed"])[-1]
    shutil.copy(target / "release" / "libbench_tokio.so", folder / "bench_tokio.so")
    return None


def measure(variant: str, case: str, plan: Plan, folder: Path) -> Sample:
    """One sample of one variant."""
    loop, function = variant, case
    if variant in TOKIO:
        loop, function = variant.removeprefix("tokio-"), case.replace("task", "tokio")
    environment = {"PYTHONPATH": str(folder)}
    sample = micro.measure(loop, f"bench.native.cases:{function}", plan, environment)
    return dataclasses.replace(sample, case=case, variant=variant)


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    wanted = plan.cases or (QUICK_CASES if plan.quick else list(BY_NAME))
    for case in wanted:
        if case not in BY_NAME:
            raise BenchError(f"unknown case {case!r}: {', '.join(BY_NAME)}")
    folder = build_extension("native", plan.python)
    has_tokio = not plan.variants or set(TOKIO) & set(plan.variants)
    tokio_problem = build_tokio(plan.python, folder) if has_tokio and not plan.quick else "not asked for"

    def problem(name: str, python: str) -> str | None:
        if name in TOKIO:
            return tokio_problem or loop_problem(name.removeprefix("tokio-"), python)
        return loop_problem(name, python)

    names = chosen(plan, (*LOOPS, *TOKIO), BASELINE, problem)
    samples: list[Sample] = []
    for case in plan.each(wanted):
        here = [name for name in names if name not in TOKIO or case in TOKIO_CASES]
        say(f"native: {case}")
        samples += interleave(plan, case, here, lambda name, case=case: measure(name, case, plan, folder))
    return samples
