"""The command line: ``python -m bench http|echo|micro|all [options]``; tools/bench calls it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from bench import chart, counters, report
from bench.common import (
    RETRIES_PER_RUN,
    BenchError,
    Cores,
    Plan,
    choose_cores,
    raise_fd_limit,
    say,
)
from bench.echo import run as echo
from bench.http import run as http
from bench.http import servers
from bench.micro import run as micro

SUITES = {
    "http": (http.run, servers.BASELINE),
    "echo": (echo.run, echo.BASELINE),
    "micro": (micro.run, micro.BASELINE),
}
QUICK_SECONDS = 0.3


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Interleaved benchmarks against asyncio, uvloop, uvicorn and granian.",
    )
    add = parser.add_argument
    add("suite", choices=[*SUITES, "all"])
    add("--pairs", type=int, default=7, help="interleaved rounds (default %(default)s)")
    add("--seconds", type=float, default=2.0, help="length of a timed window (%(default)s)")
    add("--variants", default="", help="only these, with commas: uvloop,pyloop-epoll")
    add("--cases", default="", help="only these, with commas; echo and micro: also 'full'")
    add("--again", action="store_true", help="the baseline twice: what difference is noise")
    add("--quick", action="store_true", help="one short round: does it work?")
    add("--instructions", choices=["auto", "perf", "cachegrind", "none"], default="auto",
        help="how user instructions are counted (auto: by hardware, else by Cachegrind)")
    add("--python", default=sys.executable, help="the interpreter that is measured")
    add("--json", type=Path, metavar="FILE", help="write all samples and the summary")
    add("--markdown", type=Path, metavar="FILE", help="write the tables (always printed too)")
    add("--svg", type=Path, metavar="FILE", help="draw the chart")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace, cores: Cores) -> Plan:
    if options.pairs < 1 or options.seconds <= 0:
        raise BenchError("--pairs and --seconds must be positive")
    quick = options.quick
    return Plan(
        pairs=1 if quick else options.pairs,
        seconds=QUICK_SECONDS if quick else options.seconds,
        quick=quick,
        same_twice=options.again,
        instructions="none" if quick and options.instructions == "auto" else options.instructions,
        python=options.python,
        variants=[name for name in options.variants.split(",") if name],
        cases=[name for name in options.cases.split(",") if name],
        cores=cores,
        retries_left=0 if quick else RETRIES_PER_RUN,
    )


def with_suite(path: Path, suite: str, several: bool) -> Path:
    return path.with_stem(f"{path.stem}-{suite}") if several else path


def command_line(arguments: list[str]) -> str:
    """As typed, without the folders of this machine."""
    return " ".join(["tools/bench", *(re.sub(r"(^|=)/.*/", r"\1", word) for word in arguments)])


def run_suite(suite: str, options: argparse.Namespace, plan: Plan, several: bool) -> None:
    measure, baseline = SUITES[suite]
    command = command_line(sys.argv[1:])
    source, why = counters.instruction_source(plan.instructions)
    counting = {
        "instructions": {"perf": "hardware counters (perf stat)", "none": "not counted",
                         "cachegrind": "Cachegrind, a pass of its own"}[source],
        "why": why,
        "syscalls": counters.syscalls_problem(),
    }  # fmt: skip
    say(f"{suite}: instructions by {counting['instructions']}" + (f" ({why})" if why else ""))
    result = report.document(suite, plan, measure(plan), baseline, command, counting)
    tables = report.markdown(result)
    print(tables)
    outputs = ((options.json, report.to_json), (options.markdown, report.markdown),
               (options.svg, chart.draw))  # fmt: skip
    for path, render in outputs:
        if path:
            with_suite(path, suite, several).write_text(render(result))


def main() -> int:
    options = parse(sys.argv[1:])
    raise_fd_limit()
    try:
        cores = choose_cores()
        if cores.shared:
            say("only one core: server and client share it, so clocks mean little here")
        os.sched_setaffinity(0, {cores.client})
        names = list(SUITES) if options.suite == "all" else [options.suite]
        for suite in names:
            run_suite(suite, options, plan_of(options, cores), len(names) > 1)
    except BenchError as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
