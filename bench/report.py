"""Results as JSON and as a Markdown table: medians, spread, paired ratios, missed targets."""

from __future__ import annotations

import datetime
import json

from bench import targets
from bench.common import Plan, Sample, machine, summarize, versions

FORMAT = 1

_LOAD_COLUMNS = (
    ("messages_per_s", "messages/s", "{:,.0f}"),
    ("p50_us", "p50 µs", "{:,.0f}"),
    ("p99_us", "p99 µs", "{:,.0f}"),
    ("p999_us", "p99.9 µs", "{:,.0f}"),
    ("instr", "instr.", "{:,.0f}"),
    ("user_instr", "user instr.", "{:,.0f}"),
    ("kernel_instr", "kernel instr.", "{:,.0f}"),
    ("syscalls", "syscalls", "{:.2f}"),
    ("faults", "page faults", "{:.2f}"),
    ("cpu_ns", "CPU ns", "{:,.0f}"),
    ("user_ns", "user ns", "{:,.0f}"),
    ("kernel_ns", "kernel ns", "{:,.0f}"),
    ("rss_per_idle", "RSS B/idle conn.", "{:,.0f}"),
    ("bytes", "bytes", "{:,.0f}"),
    ("server_busy", "server busy", "{:.0%}"),
)

_OPERATION_COLUMNS = (
    ("ns", "ns", "{:,.0f}"),
    ("instr", "instr.", "{:,.0f}"),
    ("user_instr", "user instr.", "{:,.0f}"),
    ("kernel_instr", "kernel instr.", "{:,.0f}"),
    ("syscalls", "syscalls", "{:.2f}"),
    ("faults", "page faults", "{:.2f}"),
    ("cpu_ns", "CPU ns", "{:,.0f}"),
)
COLUMNS = {
    "http": (
        ("requests_per_s", "requests/s", "{:,.0f}"),
        ("p50_us", "p50 µs", "{:,.0f}"),
        ("p99_us", "p99 µs", "{:,.0f}"),
        ("paced_p50_us", "paced p50", "{:,.0f}"),
        ("paced_p99_us", "paced p99", "{:,.0f}"),
        ("instr", "instr.", "{:,.0f}"),
        ("user_instr", "user instr.", "{:,.0f}"),
        ("kernel_instr", "kernel instr.", "{:,.0f}"),
        ("syscalls", "syscalls", "{:.2f}"),
        ("faults", "page faults", "{:.2f}"),
        ("cpu_ns", "CPU ns", "{:,.0f}"),
        ("user_ns", "user ns", "{:,.0f}"),
        ("kernel_ns", "kernel ns", "{:,.0f}"),
        ("rss_per_idle", "RSS B/idle conn.", "{:,.0f}"),
        ("bytes", "bytes", "{:,.0f}"),
        ("server_busy", "server busy", "{:.0%}"),
    ),
    "echo": _LOAD_COLUMNS,
    "sweep": _LOAD_COLUMNS,
    "servers": _LOAD_COLUMNS,
    "ioworker": _LOAD_COLUMNS,
    "micro": _OPERATION_COLUMNS,
    "native": _OPERATION_COLUMNS,
    "parallel": (
        ("ops_1", "1 worker, op/s", "{:,.0f}"),
        ("ops_2", "2 workers, op/s", "{:,.0f}"),
        ("scaling", "2 ÷ 1", "{:.2f}"),
        ("cpu_ns", "CPU ns", "{:,.0f}"),
        ("cpu_growth", "CPU, 2 ÷ 1", "{:.2f}"),
        ("spread_ms", "spread after ms", "{:.1f}"),
        ("busiest", "on the busiest", "{:.0%}"),
        ("p99_alone_us", "p99 alone µs", "{:,.0f}"),
        ("p99_beside_us", "p99 beside µs", "{:,.0f}"),
        ("p99_cost", "beside ÷ alone", "{:.2f}"),
    ),
    "neighbour": (
        ("messages_per_s", "alone, messages/s", "{:,.0f}"),
        ("beside_per_s", "beside, messages/s", "{:,.0f}"),
        ("kept", "kept", "{:.0%}"),
        ("alone_p50_us", "p50 alone µs", "{:,.0f}"),
        ("beside_p50_us", "p50 beside µs", "{:,.0f}"),
        ("alone_p99_us", "p99 alone µs", "{:,.0f}"),
        ("beside_p99_us", "p99 beside µs", "{:,.0f}"),
        ("paced_alone_p99_us", "paced: p99 alone µs", "{:,.0f}"),
        ("paced_beside_p50_us", "paced: p50 beside µs", "{:,.0f}"),
        ("paced_beside_p99_us", "paced: p99 beside µs", "{:,.0f}"),
        ("neighbour", "core of the neighbour", "{:.0%}"),
    ),
    "start": (
        ("ms", "ms", "{:,.1f}"),
        ("user_ms", "user ms", "{:,.1f}"),
        ("kernel_ms", "kernel ms", "{:,.1f}"),
    ),
}
PRIMARY = {"http": ("instr", "user_instr", "cpu_ns"), "echo": ("instr", "user_instr", "cpu_ns"),
           "servers": ("instr", "user_instr", "cpu_ns", "messages_per_s"),
           "sweep": ("messages_per_s", "instr", "cpu_ns"), "micro": ("instr", "user_instr", "ns"),
           "native": ("cpu_ns", "ns"), "start": ("ms",), "neighbour": ("beside_per_s", "beside_p99_us"),
           "parallel": ("ops_2", "scaling"), "ioworker": ("messages_per_s", "cpu_ns")}  # fmt: skip
"""The metrics whose paired ratio to the baseline is shown: a counter, then a clock."""


def document(suite: str, plan: Plan, samples: list[Sample], baseline: str, command: str,
             counting: dict) -> dict:  # fmt: skip
    """Everything about one run, ready for JSON."""
    rows = summarize(samples, baseline)
    return {
        "format": FORMAT,
        "suite": suite,
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "baseline": baseline,
        "pairs": plan.pairs,
        "seconds": plan.seconds,
        "quick": plan.quick,
        "counting": counting,
        "skipped": plan.skipped,
        "uncounted": plan.uncounted,
        "disturbed_samples": sum(s.disturbed > plan.disturbed_max for s in samples),
        "machine": machine(plan.cores),
        "versions": versions(plan.python),
        "summary": rows,
        # One short round proves nothing about a target.
        "targets": [] if plan.quick else targets.check(suite, samples),
        "samples": [vars(sample) for sample in samples],
    }


def to_json(result: dict) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False) + "\n"


def markdown(result: dict) -> str:
    """The tables of one run, one for each case, under what they were measured on."""
    suite = result["suite"]
    parts = [f"# {suite}", *_preamble(result)]
    for case in dict.fromkeys(row["case"] for row in result["summary"]):
        rows = [row for row in result["summary"] if row["case"] == case]
        parts += [f"## {suite}: {case}", _table(suite, rows, result["baseline"])]
    if result["targets"]:
        parts += ["## Targets", _targets(result["targets"])]
    return "\n\n".join(parts) + "\n"


def _preamble(result: dict) -> list[str]:
    found, counting = result["machine"], result["counting"]
    shared = " (the same core: do not believe the clocks)" * (
        found["server_core"] == found["client_core"]
    )
    lines = [
        f"Command: `{result['command']}`, {result['date']}.",
        f"Machine: {found['system']}, {found['cpu']}, {found['cpus']} CPUs"
        + (", virtual" if found["hypervisor"] else "")
        + f"; server on core {found['server_core']}, client on core {found['client_core']}{shared};"
        + f" load average at start {found['load_average_at_start']}.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".",
        f"{result['pairs']} interleaved rounds; median, quartiles in brackets; ratios are formed "
        f"within a round against {result['baseline']}. "
        f"{result['disturbed_samples']} of {len(result['samples'])} samples were disturbed by "
        "other work on the machine.",
        f"Instructions: {counting['instructions']}."
        + (f" Why not by hardware: {counting['why']}; so kernel instructions are not known."
           if counting["why"] else "")
        + (f" System calls not counted: {counting['syscalls']}." if counting["syscalls"] else ""),
    ]  # fmt: skip
    if result["skipped"]:
        skipped = "; ".join(f"{name} ({why})" for name, why in result["skipped"].items())
        lines.append(f"**Skipped:** {skipped}.")
    if result["uncounted"]:
        uncounted = "; ".join(f"{name} ({why})" for name, why in result["uncounted"].items())
        lines.append(f"**User instructions not known:** {uncounted}.")
    if result["quick"]:
        lines.append("**Quick mode: shows that the bench works, not how fast anything is.**")
    return lines


def _table(suite: str, rows: list[dict], baseline: str) -> str:
    columns = [c for c in COLUMNS[suite] if any(c[0] in row["metrics"] for row in rows)]
    primary = [
        (name, label) for name, label, _ in columns if name in PRIMARY[suite]
    ]  # in column order
    head = ["", *(label for _, label, _ in columns)]
    head += [f"{label} ÷ {baseline}" for _, label in primary]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["variant"]]
        cells += [_cell(row["metrics"].get(name), form) for name, _, form in columns]
        cells += [_cell(row["ratios"].get(name), "{:.2f}") for name, _ in primary]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: dict | None, form: str) -> str:
    if value is None:
        return "–"
    median = form.format(value["median"])
    low, high = form.format(value["q1"]), form.format(value["q3"])
    return median if low == high else f"{median} [{low}–{high}]"


def _targets(checks: list[dict]) -> str:
    lines = ["| target | at most | measured | |", "|---|---|---|---|"]
    for check in checks:
        if check["met"] is None:
            measured, verdict = "–", "not known here"
            hints = ", ".join(f"{name} {value:.2f}" for name, value in check["hints"].items())
            verdict += f" (beside it: {hints})" if hints else ""
        else:
            measured = f"{check['measured']:.2f}"
            verdict = "met" if check["met"] else "**missed**"
        lines.append(f"| {check['what']} | {check['at_most']:.2f} | {measured} | {verdict} |")
    return "\n".join(lines)


def missed(results: list[dict]) -> str:
    """The targets of several suites that were missed or could not be judged."""
    checks = [check for result in results for check in result["targets"] if check["met"] is not True]
    total = sum(len(result["targets"]) for result in results)
    unknown = sum(check["met"] is None for check in checks)
    head = (f"# Targets\n\n{total - len(checks)} of {total} met, {len(checks) - unknown} missed, "
            f"{unknown} not known here.\n")  # fmt: skip
    checks.sort(key=lambda check: check["met"] is None)
    return head + ("\n" + _targets(checks) + "\n" if checks else "")
