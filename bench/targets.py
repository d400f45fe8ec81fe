"""What pyloop wants to reach, as ratios to another variant of the same run.

Each target names a suite, a case (shell pattern), a metric, the reference, and the largest or
smallest ratio that meets it. Of pyloop's two backends the better one counts.
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass

BACKENDS = ("io_uring", "epoll")


@dataclass(frozen=True)
class Target:
    suite: str
    case: str
    metric: str
    reference: str
    at_most: float
    ours: str = "pyloop-{}"


TARGETS = (
    Target("http", "plain", "user_instr", "uvicorn-uvloop", 1 / 3),
    Target("http", "fastapi", "user_instr", "uvicorn-uvloop", 0.80),
    Target("http", "plain", "user_instr", "uvicorn-uvloop", 1 / 1.1, "uvicorn-pyloop-{}"),
    Target("echo", "protocol/1KiB/64", "user_instr", "uvloop", 0.50),
    Target("echo", "protocol/1KiB/1024", "user_instr", "uvloop", 0.50),
    Target("echo", "*/1KiB/64", "cpu_ns", "uvloop", 0.85),
    Target("echo", "*/100KiB/*", "cpu_ns", "uvloop", 1.0),
    Target("echo", "*/1", "p99_us", "uvloop", 1.0),
    Target("echo", "*/idle", "rss_per_idle", "uvloop", 0.50),
    Target("micro", "*", "ns", "uvloop", 1 / 1.3),
)
MICRO_MEAN = {"uvloop": 1 / 2.0, "asyncio": 1 / 4.0}
"""The geometric mean of all micro cases' times, at most this part of the reference's."""


def _median(rows: list[dict], case: str, variant: str, metric: str) -> float | None:
    for row in rows:
        if row["case"] == case and row["variant"] == variant and metric in row["metrics"]:
            return row["metrics"][metric]["median"]
    return None


def _best_ratio(rows: list[dict], case: str, target: Target) -> float | None:
    reference = _median(rows, case, target.reference, target.metric)
    found = [
        _median(rows, case, target.ours.format(backend), target.metric) for backend in BACKENDS
    ]
    found = [value for value in found if value is not None]
    return min(found) / reference if found and reference else None


def check(suite: str, rows: list[dict]) -> list[dict]:
    """Every target of the suite that this run can answer."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    checks = []
    for target in TARGETS:
        if target.suite != suite:
            continue
        for case in fnmatch.filter(cases, target.case):
            ratio = _best_ratio(rows, case, target)
            if ratio is not None:
                ours = target.ours.format("*")
                what = f"{case}: {target.metric}, {ours} ÷ {target.reference}"
                checks.append(_verdict(what, ratio, target.at_most))
    if suite == "micro":
        checks += _means(rows, cases)
    return checks


def _means(rows: list[dict], cases: list[str]) -> list[dict]:
    checks = []
    for reference, at_most in MICRO_MEAN.items():
        ratios = [
            _best_ratio(rows, case, Target("micro", case, "ns", reference, at_most))
            for case in cases
        ]
        ratios = [ratio for ratio in ratios if ratio]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            what = f"geometric mean of {len(ratios)} cases: ns, pyloop-* ÷ {reference}"
            checks.append(_verdict(what, mean, at_most))
    return checks


def _verdict(what: str, ratio: float, at_most: float) -> dict:
    met = ratio <= at_most
    return {"what": what, "wanted": f"≤ {at_most:.2f}", "measured": ratio, "met": met}
