"""Measures whole commands with hyperfine, on the server's core.

A sample is one run of hyperfine: a warm-up and RUNS runs, of which the median counts. Cases:
`python` (the interpreter alone), `import` of the loop's package, `loop` (made, run once, closed) and
`answer`: a server started and asked until its first answer (c/first_answer.c), uvicorn on the other
loops, `python -m pyloop.run` on ours.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench.common import (
    LOOPS,
    ROOT,
    BenchError,
    Plan,
    Sample,
    build_c,
    chosen,
    interleave,
    loop_problem,
)
from bench.http import servers

BASELINE = "uvloop"
CASES = ("python", "import", "loop", "answer")
QUICK_CASES = ("import",)
RUNS = 5
APPLICATION = "bench.http.plain:app"

PACKAGES = {"asyncio": "asyncio", "uvloop": "uvloop"}  # pyloop's variants: pyloop
MAKE_LOOP = {
    "asyncio": "import asyncio; loop = asyncio.new_event_loop()",
    "uvloop": "import asyncio, uvloop; loop = uvloop.new_event_loop()",
}
RUN_LOOP = "; loop.run_until_complete(asyncio.sleep(0)); loop.close()"


def command(variant: str, case: str, python: str) -> tuple[list[str], dict[str, str]]:
    """The command that is timed, and its extra environment."""
    environment = {}
    if variant.startswith("pyloop-"):
        environment["PYLOOP_BACKEND"] = variant.removeprefix("pyloop-")
    if case == "python":
        return [python, "-c", "pass"], environment
    if case == "import":
        return [python, "-c", f"import {PACKAGES.get(variant, 'pyloop')}"], environment
    if case == "loop":
        ours = "import asyncio, pyloop; loop = pyloop.new_event_loop()"
        return [python, "-c", MAKE_LOOP.get(variant, ours) + RUN_LOOP], environment
    server = variant if variant.startswith("pyloop-") else f"uvicorn-{variant}"
    argv, environment = servers.command(server, APPLICATION, "PORT", python)
    return [str(build_c("first_answer")), *argv], environment


def measure(variant: str, case: str, plan: Plan) -> Sample:
    """One sample of one variant."""
    argv, environment = command(variant, case, plan.python)
    with tempfile.TemporaryDirectory(prefix="bench-start-") as folder:
        exported = Path(folder, "result.json")
        child = subprocess.run(
            ["hyperfine", "--shell=none", "--warmup=1", f"--runs={2 if plan.quick else RUNS}",
             "--style=none", f"--export-json={exported}", shlex.join(argv)],
            cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {plan.cores.server}),
        )  # fmt: skip
        if child.returncode != 0:
            raise BenchError(f"hyperfine, {variant} {case}: {child.stderr.strip()}")
        (result,) = json.loads(exported.read_text())["results"]
    return Sample(case, variant, 0, {
        "ms": statistics.median(result["times"]) * 1e3,
        "user_ms": result["user"] * 1e3,
        "kernel_ms": result["system"] * 1e3,
    })  # fmt: skip


def problem(variant: str, python: str) -> str | None:
    if shutil.which("hyperfine") is None:
        return "hyperfine is not installed"
    return loop_problem(variant, python)


def run(plan: Plan) -> list[Sample]:
    """All samples of the suite."""
    cases = plan.cases or (QUICK_CASES if plan.quick else CASES)
    for case in cases:
        if case not in CASES:
            raise BenchError(f"unknown case {case!r}: {', '.join(CASES)}")
    names = chosen(plan, LOOPS, BASELINE, problem)
    samples: list[Sample] = []
    for case in plan.each(cases):
        samples += interleave(
            plan, case, names, lambda name, case=case: measure(name, case, plan)
        )
    return samples
