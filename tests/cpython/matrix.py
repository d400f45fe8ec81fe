#!/usr/bin/env python3
"""The conformance table: CPython's own asyncio tests under asyncio, uvloop and pyloop, side by side.

    python tests/cpython/matrix.py [--python PATH ...] [--readme FILE] [--debug off|on|both] [--repeat N]

Every PATH is an interpreter with pyloop (and for its column uvloop) installed and with test.test_asyncio
present, or a command that starts one ("tools/debian-forky 3.14 .venv-cp314/bin/python"). Prints a Markdown
table; with --readme also puts it between the marks `<!-- conformance -->` of that file, where rows of other
versions stay as they are. Exit status 1 if pyloop failed a test anywhere.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
MARK_BEGIN, MARK_END = "<!-- conformance -->", "<!-- /conformance -->"
COLUMNS = (("asyncio", None), ("uvloop", None), ("pyloop", "io_uring"), ("pyloop", "epoll"))


def version_of(python):
    code = ("import sys, sysconfig; print('%d.%d.%d' % sys.version_info[:3]"
            " + 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')))")
    return subprocess.run([*python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def has_loop(python, loop):
    if loop == "asyncio":
        return True
    return subprocess.run([*python, "-c", f"import {loop}"], capture_output=True).returncode == 0


def run_once(python, loop, backend, debug):
    """(passed, failed, skipped, failed ids) of one run."""
    # In the clone, so that another system that sees the clone can write it.
    with tempfile.NamedTemporaryFile(suffix=".json", dir=HERE) as out:
        command = [*python, os.path.join(HERE, "run.py"), "--loop", loop, "--json", out.name]
        command += ["--backend", backend] if backend else []
        command += ["--timeout", "30"] + (["--debug"] if debug else [])
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            results = json.load(open(out.name))
        except ValueError:
            raise SystemExit(f"{' '.join(command)} gave no result:\n{done.stdout}{done.stderr}") from None
    outcomes = [r["outcome"] for r in results.values()]
    failed = sorted(test_id for test_id, r in results.items() if r["outcome"] == "failed")
    return outcomes.count("passed"), len(failed), outcomes.count("skipped"), failed


def cell(counts):
    if counts is None:
        return "not installed"
    passed, failed, skipped, _ = counts
    if failed:
        return f"{passed} passed, **{failed} failed**, {skipped} skipped"
    return f"{passed} passed, {skipped} skipped"


def row_key(line):
    """(3, 11, "") and the debug column of a row, None for other lines."""
    match = re.match(r"\| (\d+)\.(\d+)\.\d+(t?) \| (on|off) \|", line)
    return match and (int(match[1]), int(match[2]), match[3], match[4] == "on")


def put_into(path, heading, rows):
    with open(path) as file:
        text = file.read()
    head, mark, rest = text.partition(MARK_BEGIN)
    before, end, tail = rest.partition(MARK_END)
    if not mark or not end:
        raise SystemExit(f"{path} has no {MARK_BEGIN} … {MARK_END}")
    by_key = {row_key(line): line for line in [*before.splitlines(), *rows] if row_key(line)}
    table = "\n".join([*heading, *(by_key[key] for key in sorted(by_key))])
    with open(path, "w") as file:
        file.write(f"{head}{mark}\n{table}\n{end}{tail}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter; may be repeated (default: this one)")
    parser.add_argument("--debug", choices=("off", "on", "both"), default="both")
    parser.add_argument("--repeat", type=int, default=1, help="runs of pyloop's columns in a row; the worst counts")
    parser.add_argument("--readme", help="file to put the table into")
    arguments = parser.parse_args()
    modes = {"off": (False,), "on": (True,), "both": (False, True)}[arguments.debug]
    heading = ["| Python | debug | asyncio | uvloop | pyloop, io_uring | pyloop, epoll |", "|---|---|---|---|---|---|"]
    rows = []
    broken = False
    for path in arguments.python or [sys.executable]:
        python = [path] if os.path.exists(path) else shlex.split(path)
        version = version_of(python)
        for debug in modes:
            row = []
            for loop, backend in COLUMNS:
                counts = None
                if has_loop(python, loop):
                    runs = [run_once(python, loop, backend, debug)
                            for _ in range(arguments.repeat if loop == "pyloop" else 1)]
                    counts = max(runs, key=lambda run: run[1])
                    for test_id in counts[3] if loop == "pyloop" else ():
                        print(f"pyloop {backend} {version} debug={debug}: FAIL {test_id}", file=sys.stderr)
                broken |= loop == "pyloop" and (counts is None or counts[1] > 0)
                row.append(cell(counts))
            rows.append(f"| {version} | {'on' if debug else 'off'} | " + " | ".join(row) + " |")
            print(rows[-1], file=sys.stderr, flush=True)
            if arguments.readme:
                put_into(arguments.readme, heading, rows)
    print("\n".join([*heading, *rows]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
