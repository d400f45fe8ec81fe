#!/usr/bin/env python3
"""Run the interpreter's own test.test_asyncio against a loop: each test in a process of its own, with a timeout.

    python tests/cpython/run.py [--loop pyloop|uvloop|asyncio] [--backend NAME] [--debug] [--json FILE] [PATTERN ...]

The parent imports the test modules once and forks a child for each test, so that a hang, a crash or leaked
state cannot reach the next one. skips.txt lists what does not apply to the loop, each line with its reason; those
tests run all the same, and one that passes is an error ("unexpected pass"), as is a line that no test matches: so
the list cannot rot. Last lines: SKIP and each reason, with how often; N passed, N failed, N skipped. Exit status 1 if
anything failed.
"""

import argparse
import collections
import contextlib
import fnmatch
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)


class Skips:
    """skips.txt: `LOOP VERSIONS ID-PATTERN  # reason`, e.g. `pyloop >=3.12 events.Events.test_x  # why`.

    A version may name a patch release, where the test came with one: `>=3.13.5`.
    """

    def __init__(self, path, loop):
        self.rows = []
        with open(path) as lines:
            for number, line in enumerate(lines, 1):
                text, _, reason = line.partition("#")
                if not text.strip():
                    continue
                if not reason.strip():
                    raise SystemExit(f"{path}:{number}: a skip needs a reason")
                names, versions, pattern = text.split()
                if loop in names.split(",") and self._applies(versions):
                    self.rows.append((pattern, reason.strip()))
        self.used = set()

    @staticmethod
    def _applies(versions):
        if versions == "*":
            return True
        for part in versions.split(","):
            operator = part.rstrip("0123456789.")
            wanted = tuple(int(n) for n in part[len(operator):].split("."))
            here = sys.version_info[:len(wanted)]
            if not {"": here == wanted, ">=": here >= wanted, "<": here < wanted}[operator]:
                return False
        return True

    def reason(self, test_id):
        for pattern, reason in self.rows:
            if fnmatch.fnmatchcase(test_id, pattern):
                self.used.add(pattern)
                return reason
        return None

    def unused(self):
        return [pattern for pattern, _ in self.rows if pattern not in self.used]


def run_in_child(test, output):
    """The child's whole life: run one test, write (outcome, detail) to `output`, exit."""
    result = unittest.TestResult()
    try:
        unittest.TestSuite([test]).run(result)
        bad = result.errors + result.failures
        if bad:
            outcome = ("failed", bad[0][1])
        elif result.unexpectedSuccesses:
            outcome = ("failed", "unexpected success")
        elif result.skipped:
            outcome = ("skipped", result.skipped[0][1])
        else:
            outcome = ("passed", "")
    except BaseException:
        outcome = ("failed", traceback.format_exc())
    os.write(output, json.dumps(outcome).encode())
    os._exit(0)


class Job:
    """One forked child."""

    def __init__(self, test_id, test, timeout):
        self.test_id = test_id
        self.log = tempfile.TemporaryFile()
        self.folder = tempfile.TemporaryDirectory()  # test.support.os_helper.TESTFN is relative
        self.started = time.monotonic()
        self.deadline = self.started + timeout
        self.pipe, output = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self.pipe)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(self.log.fileno(), 1)
            os.dup2(self.log.fileno(), 2)
            os.chdir(self.folder.name)
            run_in_child(test, output)
        os.close(output)
        self.data = b""

    def read(self):
        """False when the child has closed its end."""
        part = os.read(self.pipe, 65536)
        self.data += part
        return bool(part)

    def kill(self):
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(self.pid, signal.SIGKILL)

    def end_rest(self):
        """Kills what the test left running: test_kill_issue43884 leaves a child of its child, for one."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def finish(self, timed_out):
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        self.end_rest()
        self.log.seek(0)
        tail = self.log.read()[-3000:].decode(errors="replace")
        self.log.close()
        self.folder.cleanup()
        if timed_out:
            return "failed", "timed out\n" + tail
        try:
            outcome, detail = json.loads(self.data)
        except ValueError:
            return "failed", f"child died, wait status {status}\n{tail}"
        return outcome, detail if outcome != "failed" else detail + tail


def run_all(tests, jobs, timeout, report):
    """Fork the tests, `jobs` at a time; calls report(test_id, outcome, detail, seconds)."""
    waiting = list(tests.items())[::-1]
    running = {}
    try:
        run_waiting(waiting, running, jobs, timeout, report)
    finally:
        # Each test has a process group of its own, which whoever ends us does not know.
        for job in running.values():
            job.kill()


def run_waiting(waiting, running, jobs, timeout, report):
    """The body of run_all(); `running` tells it what to end when this is left early."""
    while waiting or running:
        while waiting and len(running) < jobs:
            job = Job(*waiting.pop(), timeout)
            running[job.pipe] = job
        readable, _, _ = select.select(list(running), [], [], 0.5)
        for pipe in readable:
            job = running[pipe]
            if not job.read():
                del running[pipe]
                report(job.test_id, *job.finish(False), time.monotonic() - job.started)
        now = time.monotonic()
        for pipe, job in list(running.items()):
            if now > job.deadline:
                job.kill()
                del running[pipe]
                report(job.test_id, *job.finish(True), now - job.started)


class Report:
    """Judges outcomes against the skip list, prints what is not as it should be."""

    def __init__(self, skips, verbose):
        self.skips = skips
        self.verbose = verbose
        self.results = {}

    def __call__(self, test_id, outcome, detail, seconds):
        reason = self.skips.reason(test_id)
        if reason is not None:
            if outcome == "passed":
                outcome, detail = "failed", f"unexpected pass: skips.txt says: {reason}"
            elif outcome == "failed":
                outcome, detail = "skipped", "skips.txt: " + reason
        self.results[test_id] = {"outcome": outcome, "detail": detail, "seconds": round(seconds, 3)}
        if outcome == "failed":
            print(f"FAIL {test_id}\n    " + detail.strip().replace("\n", "\n    "), flush=True)
        elif self.verbose:
            print(f"{outcome} {test_id} {seconds:.2f}s {detail.splitlines()[:1]}", flush=True)

    def finish(self, was_complete):
        """The lines at the end. True if all is well."""
        if was_complete:
            for pattern in self.skips.unused():
                self.results[pattern] = {"outcome": "failed", "detail": "no such test", "seconds": 0}
                print(f"FAIL {pattern}\n    skips.txt: there is no such test")
        reasons = collections.Counter(" ".join(r["detail"].split()) for r in self.results.values()
                                      if r["outcome"] == "skipped")
        for reason, times in reasons.items():
            print(f"SKIP {reason}" + f" ({times} times)" * (times > 1))
        failed = self.count("failed")
        print(f"{self.count('passed')} passed, {failed} failed, {self.count('skipped')} skipped")
        return failed == 0

    def count(self, outcome):
        return sum(result["outcome"] == outcome for result in self.results.values())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="test ids, shell patterns allowed")
    parser.add_argument("--loop", default="pyloop", choices=("pyloop", "uvloop", "asyncio"))
    parser.add_argument("--backend", help="sets PYLOOP_BACKEND")
    parser.add_argument("--debug", action="store_true", help="sets PYTHONASYNCIODEBUG")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--skips", default=os.path.join(HERE, "skips.txt"), help="another list than skips.txt")
    parser.add_argument("--json", help="write all outcomes to this file")
    parser.add_argument("--list", action="store_true", help="print the ids and stop")
    parser.add_argument("-v", "--verbose", action="store_true")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["PYLOOP_BACKEND"] = arguments.backend
    if arguments.debug:
        os.environ["PYTHONASYNCIODEBUG"] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that tests end with us
    import inject
    new_loop = inject.install(arguments.loop)
    import suites
    tests = suites.collect(new_loop)
    if arguments.patterns:
        tests = {test_id: test for test_id, test in tests.items()
                 if any(fnmatch.fnmatchcase(test_id, "*" + p + "*") for p in arguments.patterns)}
    if arguments.list:
        print("\n".join(tests))
        return 0
    report = Report(Skips(arguments.skips, arguments.loop), arguments.verbose)
    run_all(tests, arguments.jobs, arguments.timeout, report)
    is_good = report.finish(not arguments.patterns)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(report.results, file, indent=1)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
