"""What pyloop wants to reach, as ratios to another variant of the same run.

A target is met, missed or not known. It is not known where its own metric was not measured: no
other metric takes its place, though those that hint at it are shown beside. Ratios are formed
within a round and the median of them counts; each of pyloop's backends is judged by itself,
because a program runs on one of them.
"""

from __future__ import annotations

import fnmatch
import math
import statistics
from dataclasses import dataclass

from bench.common import IN_GUEST, Sample

BACKENDS = ("io_uring", "epoll")
HINTS = ("user_instr", "cpu_ns")
"""Shown where `instr` (user and kernel instructions together) is not known."""


@dataclass(frozen=True)
class Target:
    suite: str
    case: str  # a shell pattern
    metric: str
    reference: str  # "": the value itself is compared, not a ratio
    at_most: float
    ours: str = "pyloop-{}"


TARGETS = (
    Target("http", "plain", "instr", "uvicorn-uvloop", 1 / 3),
    Target("http", "fastapi", "instr", "uvicorn-uvloop", 0.80),
    Target("http", "plain", "instr", "uvicorn-uvloop", 1 / 1.1, "uvicorn-pyloop-{}"),
    Target("echo", "protocol/1KiB/64", "user_instr", "uvloop", 0.50),
    Target("echo", "protocol/1KiB/1024", "user_instr", "uvloop", 0.50),
    Target("echo", "native-streams/1KiB/64", "user_instr", "uvloop", 0.30),
    Target("echo", "native-streams/1KiB/1024", "user_instr", "uvloop", 0.30),
    Target("echo", "protocol/1KiB/64", "instr", "uvloop", 0.85),
    Target("echo", "protocol/1KiB/1024", "instr", "uvloop", 0.85),
    Target("echo", "protocol/1KiB/256", "syscalls", "", 0.2, "pyloop-io_uring"),
    Target("echo", "*/100KiB/*", "messages_per_s inverse", "uvloop", 1.0),
    Target("echo", "*/1KiB/1", "p50_us", "uvloop", 1.0),
    Target("echo", "*/1KiB/1", "p99_us", "uvloop", 1.0),
    # Not the rate itself: a connection costs the client, on one core, more than our server.
    Target("echo", "rate/*", "cpu_ns", "uvloop", 1 / 1.3),
    Target("echo", "rate/*", "instr", "uvloop", 1 / 1.3),
    *(
        Target("echo", f"{style}/idle/*", "rss_per_idle", "uvloop", 0.50)
        for style in ("protocol", "buffered", "streams", "native-streams", "unix")
    ),
    Target("echo", "tls/idle/*", "rss_per_idle", "uvloop", 0.25),
    # `auto` is never more than 3 % behind the better backend.
    Target("sweep", "*", "messages_per_s inverse", "pyloop-epoll", 1.03, "pyloop-auto"),
    Target("sweep", "*", "messages_per_s inverse", "pyloop-io_uring", 1.03, "pyloop-auto"),
    # The same as those of echo, in turns of 20 ms instead of windows of their own.
    Target("sweep", "*/1", "p50_us", "uvloop", 1.0),
    Target("sweep", "*/1", "p99_us", "uvloop", 1.0),
    Target("sweep", "rate/*", "cpu_ns", "uvloop", 1 / 1.3),
    Target("sweep", "*/100KiB/*", "messages_per_s inverse", "uvloop", 1.0),
    *(
        Target("sweep", f"{server}/*", metric, "uvloop", at_most)
        for server in ("uvicorn", "aiohttp", "websockets")
        for metric, at_most in (("cpu_ns", 1 / 1.1), ("messages_per_s inverse", 1.0))
    ),
    Target("servers", "*", "instr", "uvloop", 1 / 1.1),
    Target("servers", "*", "messages_per_s inverse", "uvloop", 1.0),
    # 90 % of what threads reach without any loop, and not behind one loop a thread.
    Target("parallel", "*/uniform", "scaling inverse", "threads", 1 / 0.9),
    Target("parallel", "*/uniform", "ops_2 inverse", "asyncio a thread", 1.0),
    Target("parallel", "*/uniform", "ops_2 inverse", "uvloop a thread", 1.0),
    Target("parallel", "*/skewed", "ops_2 inverse", "asyncio a thread", 1 / 1.3),
    Target("parallel", "*/skewed", "ops_2 inverse", "uvloop a thread", 1 / 1.3),
    Target("parallel", "balance/connections", "spread_ms", "", 10.0),
    Target("parallel", "balance/connections", "busiest", "", 0.5),
    Target("parallel", "balance/heavy", "p99_cost", "", 2.0),
    Target("neighbour", "*", "kept inverse", "", 1 / 0.45),
    *(Target("neighbour", case, "beside_p99_us", "", 6000.0) for case in ("echo", "http")),
    *(Target("neighbour", case, metric, "", 2000.0)
      for case in ("echo-interval", "http-interval")
      for metric in ("beside_p99_us", "paced_beside_p99_us")),
    Target("micro", "*", "ns", "uvloop", 1 / 1.3),
    *(
        Target("native", "*", metric, reference, 1 / 5)
        for reference in ("asyncio", "uvloop")
        for metric in ("cpu_ns", "ns")
    ),
    *(Target("native", "task*", "cpu_ns", f"tokio-{loop}", 1 / 3) for loop in ("asyncio", "uvloop")),
)
KERNEL_BOUND = ("spawn", "sleep_1ms")
"""Micro cases without a target: the kernel's part of them is the same for every loop."""
MICRO_MEAN = {"uvloop": 1 / 2.0, "asyncio": 1 / 4.0}
"""The geometric mean of the micro cases' times, at most this part of the reference's."""

Table = dict[tuple[str, str], dict[int, dict[str, float]]]


def _value(metrics: dict[str, float], metric: str) -> float | None:
    if metric == "instr" and "instr" not in metrics:
        if "user_instr" in metrics and "kernel_instr" in metrics:
            return metrics["user_instr"] + metrics["kernel_instr"]
        return None
    if metric.endswith(" inverse"):
        value = metrics.get(metric.removesuffix(" inverse"))
        return 1 / value if value else None
    return metrics.get(metric)


def _ratio(table: Table, case: str, variant: str, reference: str, metric: str) -> float | None:
    """Median of the ratios of each round; None where either side was not measured."""
    theirs = table.get((case, reference), {})
    found = []
    for number, metrics in table.get((case, variant), {}).items():
        ours = _value(metrics, metric)
        other = _value(theirs.get(number, {}), metric) if reference else 1.0
        if ours is not None and other:
            found.append(ours / other)
    return statistics.median(found) if found else None


def check(suite: str, samples: list[Sample]) -> list[dict]:
    """Every target of the suite for which this run has both sides."""
    table: Table = {}
    for sample in samples:
        table.setdefault((sample.case, sample.variant), {})[sample.round] = sample.metrics
    cases = list(dict.fromkeys(sample.case for sample in samples))
    checks = []
    for target in TARGETS:
        if target.suite != suite or (IN_GUEST and target.metric not in ("instr", "syscalls")):
            continue
        for case in fnmatch.filter(cases, target.case):
            if suite == "micro" and case in KERNEL_BOUND:
                continue
            # A dict, because a target may name one variant only.
            for variant in dict.fromkeys(map(target.ours.format, BACKENDS)):
                compared = not target.reference or (case, target.reference) in table
                if (case, variant) in table and compared:
                    checks.append(_check_one(table, case, variant, target))
    if suite == "micro" and not IN_GUEST:
        checks += _means(table, [case for case in cases if case not in KERNEL_BOUND])
    return checks


def wants_instructions(suite: str, case: str, variant: str) -> bool:
    """Whether a target of the case compares the variant's instructions."""
    return any(
        target.suite == suite
        and "instr" in target.metric
        and fnmatch.fnmatch(case, target.case)
        and variant in (target.reference, *map(target.ours.format, BACKENDS))
        for target in TARGETS
    )


def _check_one(table: Table, case: str, variant: str, target: Target) -> dict:
    ratio = _ratio(table, case, variant, target.reference, target.metric)
    hints = {}
    if ratio is None:
        for metric in HINTS:
            hint = _ratio(table, case, variant, target.reference, metric)
            if hint is not None:
                hints[metric] = hint
    divided = f" ÷ {target.reference}" if target.reference else ""
    what = f"{case}: {target.metric}, {variant}{divided}"
    return _verdict(what, ratio, target.at_most, hints)


def _means(table: Table, cases: list[str]) -> list[dict]:
    checks = []
    for reference, at_most in MICRO_MEAN.items():
        for backend in BACKENDS:
            variant = f"pyloop-{backend}"
            ratios = [_ratio(table, case, variant, reference, "ns") for case in cases]
            ratios = [ratio for ratio in ratios if ratio]
            if ratios:
                mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                what = f"geometric mean of {len(ratios)} cases: ns, {variant} ÷ {reference}"
                checks.append(_verdict(what, mean, at_most, {}))
    return checks


def _verdict(what: str, ratio: float | None, at_most: float, hints: dict[str, float]) -> dict:
    met = None if ratio is None else ratio <= at_most
    return {"what": what, "at_most": at_most, "measured": ratio, "met": met, "hints": hints}
