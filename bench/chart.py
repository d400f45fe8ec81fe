"""Draws a result as SVG: a panel for each case, a bar for each variant, quartiles as whiskers.

From a file: ``python -m bench.chart RESULT.json CHART.svg [METRIC]``. Needs nothing but Python.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path

from bench.report import COLUMNS

METRICS = {"http": "requests_per_s", "echo": "messages_per_s", "sweep": "messages_per_s",
           "servers": "messages_per_s", "micro": "ns", "native": "ns", "start": "ms",
           "parallel": "ops_2", "ioworker": "messages_per_s", "neighbour": "beside_per_s"}  # fmt: skip
IDLE_METRIC = "rss_per_idle"
SMALLER_IS_BETTER = "smaller is better"
LARGER_IS_BETTER = "larger is better"

WIDTH = 720
LABEL_WIDTH = 180
VALUE_WIDTH = 150
BAR = 16
GAP = 5
PANEL_HEAD = 30
MARGIN = 16
OURS = "#0b6e4f"
OTHERS = "#8a94a6"
FLOOR = "#d5d9e0"
INK = "#1f2430"
FAINT = "#667085"


def _colour(variant: str) -> str:
    if "pyloop" in variant:
        return OURS
    return FLOOR if variant.startswith("c-") else OTHERS


def _text(x: float, y: float, words: str, **attributes: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(words)}</text>'


def _bar(top: float, variant: str, spread: dict, scale: float, form: str) -> list[str]:
    middle = top + BAR / 2
    length = max(1.0, spread["median"] * scale)
    low, high = (LABEL_WIDTH + spread[name] * scale for name in ("q1", "q3"))
    value_x = max(LABEL_WIDTH + length, high) + 6
    return [
        _text(LABEL_WIDTH - 8, middle + 4, variant, text_anchor="end"),
        f'<rect x="{LABEL_WIDTH}" y="{top:.1f}" width="{length:.1f}" height="{BAR}" rx="2" '
        f'fill="{_colour(variant)}"/>',
        f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 4:.1f}v8'
        f'M{high:.1f} {middle - 4:.1f}v8" stroke="{INK}" fill="none"/>',
        _text(value_x, middle + 4, form.format(spread["median"]), fill=FAINT),
    ]


def _panel(top: float, suite: str, case: str, rows: list[dict], metric: str) -> list[str]:
    _, label, form = next(column for column in COLUMNS[suite] if column[0] == metric)
    better = LARGER_IS_BETTER if metric.endswith("_per_s") else SMALLER_IS_BETTER
    parts = [
        _text(MARGIN, top + 18, case, font_weight="600", font_size="14"),
        _text(WIDTH - MARGIN, top + 18, f"{label}, {better}", fill=FAINT, text_anchor="end"),
    ]
    largest = max(row["metrics"][metric]["q3"] for row in rows) or 1.0
    scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / largest
    for number, row in enumerate(rows):
        bar_top = top + PANEL_HEAD + number * (BAR + GAP)
        parts += _bar(bar_top, row["variant"], row["metrics"][metric], scale, form)
    return parts


def draw(result: dict, metric: str | None = None) -> str:
    """The chart as text. Cases that do not have the metric show their memory, or are left out."""
    suite = result["suite"]
    metric = metric or METRICS[suite]
    parts: list[str] = []
    top = float(MARGIN)
    for case in dict.fromkeys(row["case"] for row in result["summary"]):
        shown = IDLE_METRIC if "idle" in case else metric
        rows = [r for r in result["summary"] if r["case"] == case and shown in r["metrics"]]
        if rows:
            parts += _panel(top, suite, case, rows, shown)
            top += PANEL_HEAD + len(rows) * (BAR + GAP) + MARGIN
    machine = result["machine"]
    foot = (f"{result['date'][:10]} · {machine['cpu']}, {machine['system']} · "
            f"{result['versions']['python']} · median of {result['pairs']}, whiskers: quartiles"
            )  # fmt: skip
    parts.append(_text(MARGIN, top + 8, foot, fill=FAINT, font_size="10"))
    height = top + 24
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" font-family="system-ui, sans-serif" '
        f'font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
        *parts,
        "</svg>\n",
    ])  # fmt: skip


def main() -> int:
    if len(sys.argv) not in (3, 4):
        print("usage: python -m bench.chart RESULT.json CHART.svg [METRIC]", file=sys.stderr)
        return 2
    result = json.loads(Path(sys.argv[1]).read_text())
    metric = sys.argv[3] if len(sys.argv) == 4 else None
    known = [column[0] for column in COLUMNS[result["suite"]]]
    if metric and metric not in known:
        print(f"unknown metric {metric!r}: one of {', '.join(known)}", file=sys.stderr)
        return 2
    Path(sys.argv[2]).write_text(draw(result, metric))
    return 0


if __name__ == "__main__":
    sys.exit(main())
