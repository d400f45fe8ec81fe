"""The command line: ``python -m bench SUITE|all [options]``; tools/bench calls it."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from pathlib import Path

from bench import chart, counters, report
from bench.common import (
    RETRIES_PER_RUN,
    BenchError,
    Budget,
    Cores,
    NothingToMeasure,
    Plan,
    choose_cores,
    raise_fd_limit,
    say,
)
from bench.echo import run as echo
from bench.http import run as http
from bench.http import servers as http_servers
from bench.ioworker import run as ioworker
from bench.micro import run as micro
from bench.native import run as native
from bench.neighbour import run as neighbour
from bench.parallel import run as parallel
from bench.servers import run as servers
from bench.start import run as start
from bench.sweep import run as sweep

SUITES = {
    "http": (http.run, http_servers.BASELINE),
    "echo": (echo.run, echo.BASELINE),
    "micro": (micro.run, micro.BASELINE),
    "native": (native.run, native.BASELINE),
    "sweep": (sweep.run, sweep.baseline_of),
    "servers": (servers.run, servers.BASELINE),
    "start": (start.run, start.BASELINE),
    "neighbour": (neighbour.run, neighbour.BASELINE),
    "parallel": (parallel.run, parallel.BASELINE),
    "ioworker": (ioworker.run, ioworker.BASELINE),
}
SHARES = {"http": 0.26, "echo": 0.38, "micro": 0.08, "native": 0.04, "sweep": 0.08,
          "servers": 0.12, "start": 0.02, "neighbour": 0.02}  # fmt: skip
"""The suites of `all`, and how a time limit is divided among them. Not among them: `parallel`,
which needs a free-threaded interpreter, and `ioworker`, which answers a question of design."""
ALL_MINUTES = 28.0
LEAST_MINUTES = 0.1  # what is left where suites before took too long
LIMITED_SECONDS = 0.25  # the default window where time is limited
QUICK_SECONDS = 0.3


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Interleaved benchmarks against asyncio, uvloop, uvicorn and granian.",
    )
    add = parser.add_argument
    add("suite", choices=[*SUITES, "all"])
    add("--pairs", type=int, default=7, help="interleaved rounds (default %(default)s)")
    add("--seconds", type=float,
        help=f"length of a timed window (2.0; with a time limit {LIMITED_SECONDS})")
    add("--minutes", type=float,
        help="time limit for an interpreter: every case of a suite, and of the rounds as many as fit, three "
        f"at least (all: {ALL_MINUTES:g}; a single suite: none, and its main cases only)")
    add("--variants", default="", help="only these, with commas: uvloop,pyloop-epoll")
    add("--cases", default="", help="only these, with commas; echo and micro: also 'full'")
    add("--again", action="store_true", help="the baseline twice: what difference is noise")
    add("--quick", action="store_true", help="one short round: does it work?")
    add("--instructions", choices=["auto", "perf", "guest", "cachegrind", "none"], default="auto",
        help="how instructions are counted (auto: by hardware, else by Cachegrind those of the user; guest: the whole "
        "runs in tools/guest, where user and kernel are counted and clocks mean nothing)")
    add("--python", default=sys.executable,
        help="the interpreter that is measured; tools/bench makes an environment for it and takes the option "
        "several times (all: that of .venv, then 3.13 where there is one)")
    add("--tag", default="",
        help="comes into the names of files, r-TAG.json; tools/bench sets it where it measures several interpreters")
    add("--json", type=Path, metavar="FILE", help="write all samples and the summary")
    add("--markdown", type=Path, metavar="FILE", help="write the tables (always printed too)")
    add("--svg", type=Path, metavar="FILE", help="draw the chart")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace, cores: Cores, minutes: float | None) -> Plan:
    """What one suite is to do. Its time begins now."""
    seconds = options.seconds
    if seconds is None:
        seconds = 2.0 if minutes is None else LIMITED_SECONDS
    if options.pairs < 1 or seconds <= 0 or (minutes is not None and minutes <= 0):
        raise BenchError("--pairs, --seconds and --minutes must be positive")
    quick = options.quick
    return Plan(
        pairs=1 if quick else options.pairs,
        seconds=QUICK_SECONDS if quick else seconds,
        quick=quick,
        same_twice=options.again,
        instructions="none" if quick and options.instructions == "auto" else options.instructions,
        python=options.python,
        variants=[name for name in options.variants.split(",") if name],
        cases=[name for name in options.cases.split(",") if name],
        cores=cores,
        retries_left=0 if quick else RETRIES_PER_RUN,
        budget=None if quick or minutes is None else Budget(minutes * 60),
    )


def plan_of_all(
    suite: str, options: argparse.Namespace, cores: Cores, minutes_left: float
) -> Plan | None:
    """A suite's plan as a part of `all`, with its share of the time that is left; None if --cases
    leaves nothing of it."""
    names = list(SHARES)
    share = SHARES[suite] / sum(SHARES[name] for name in names[names.index(suite) :])
    plan = plan_of(options, cores, max(minutes_left, LEAST_MINUTES) * share)
    plan.is_part = True
    mine = [name.removeprefix(f"{suite}:") for name in plan.cases if name.startswith(f"{suite}:")]
    if any(":" not in name or name.split(":")[0] not in SHARES for name in plan.cases):
        raise BenchError("cases of `all` have their suite before them: echo:protocol/1KiB/64")
    if plan.cases and not mine:
        return None
    plan.cases = mine
    return plan


def named(path: Path, *parts: str) -> Path:
    """r.json with what is not empty of the parts: r-cp313-echo.json."""
    return path.with_stem("-".join([path.stem, *filter(None, parts)]))


def command_line(arguments: list[str]) -> str:
    """As typed, without the folders of this machine."""
    return " ".join(["tools/bench", *(re.sub(r"(^|=)/.*/", r"\1", word) for word in arguments)])


def run_suite(suite: str, options: argparse.Namespace, plan: Plan, several: bool) -> dict:
    """Measures, prints and writes; returns the result."""
    measure, baseline = SUITES[suite]
    if callable(baseline):
        baseline = baseline(plan)
    command = command_line(sys.argv[1:])
    source, why = counters.instruction_source(plan.instructions)
    counting = {
        "instructions": {"guest": "the CPU clock of an emulated machine (user and kernel together); "
                                  "rates and latencies there are of no other use",
                         "perf": "hardware counters (perf stat)", "none": "not counted",
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
            named(path, options.tag, suite if several else "").write_text(render(result))
    return result


def run_all(options: argparse.Namespace, cores: Cores) -> bool:
    """Every suite, then what missed its target. A suite that fails does not stop the others."""
    results, complete = [], True
    started = time.monotonic()
    for suite in SHARES:
        try:
            left = (options.minutes or ALL_MINUTES) - (time.monotonic() - started) / 60
            plan = plan_of_all(suite, options, cores, left)
            if plan is not None:
                results.append(run_suite(suite, options, plan, True))
        except NothingToMeasure as error:
            say(f"SKIPPED {suite}: {error}")
        except BenchError as error:
            say(f"bench: {suite}: {error}")
            complete = False
        say(f"{suite}: done after {(time.monotonic() - started) / 60:.1f} minutes in all")
    text = report.missed(results)
    print(text)
    if options.markdown:
        named(options.markdown, options.tag, "targets").write_text(text)
    return complete


def main() -> int:
    options = parse(sys.argv[1:])
    raise_fd_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    try:
        cores = choose_cores()
        if cores.shared:
            say("only one core: server and client share it, so clocks mean little here")
        os.sched_setaffinity(0, {cores.client})
        if options.suite == "all":
            return 0 if run_all(options, cores) else 1
        plan = plan_of(options, cores, options.minutes)
        run_suite(options.suite, options, plan, False)
    except BenchError as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
