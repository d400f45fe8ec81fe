"""Runs steps, a few at a time, and adds up what they report.

A step is a named function that returns an Outcome. It starts when the steps it needs are done and a
slot is free. Everything it prints goes to its own log under .cache/test; the terminal gets one line a
step, the end of the log of what failed, every reason for a skip, and the totals last.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOGS = ROOT / ".cache" / "test"
TOTALS = re.compile(r"(\d+) passed, (\d+) failed, (\d+) skipped")


@dataclasses.dataclass
class Outcome:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: list[str] = dataclasses.field(default_factory=list)  # why something was skipped
    failures: list[str] = dataclasses.field(default_factory=list)  # names of what failed

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.reasons += other.reasons
        self.failures += other.failures

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


PASSED = Outcome(passed=1)

# Leaders of the process groups that run now; guarded by the GIL's atomicity of set operations.
_running = set()


def stop_on_signals():
    """When we are told to end, what we started ends too."""
    def stop(number, _frame):
        for pid in list(_running):
            kill_group(pid)
        os._exit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def kill_group(leader):
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def skipped(reason):
    return Outcome(skipped=1, reasons=[reason])


def failed(what):
    return Outcome(failed=1, failures=[what])


class Job:
    """What a running step gets: its log, and a way to run programs that cannot outlive it."""

    def __init__(self, name, options):
        self.options = options
        self.log_path = LOGS / (name.replace("/", "-") + ".log")
        self.log = open(self.log_path, "wb", buffering=0)

    def say(self, text):
        self.log.write((text + "\n").encode())

    def run(self, command, timeout=1800, env=None, cwd=ROOT):
        """Run a command; returns (status, output as text). A timeout is status 124."""
        command = [str(word) for word in command]
        self.say("$ " + " ".join(f"{k}={v}" for k, v in (env or {}).items()) + " " + " ".join(command))
        start = self.log.tell()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                   env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True)
        _running.add(process.pid)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = 124
            self.say(f"timed out after {timeout} s")
        finally:
            # The group too, so that nothing a test left behind disturbs the next one.
            kill_group(process.pid)
            process.wait()
            _running.discard(process.pid)
        return status, self.log_path.read_bytes()[start:].decode(errors="replace")

    def check(self, what, command, **kwargs):
        """A command that passes or fails as one test; status 77 is a skip."""
        status, output = self.run(command, **kwargs)
        if status == 77:
            lines = output.strip().splitlines()
            return skipped(f"{what}: {lines[-1] if lines else 'status 77'}")
        return PASSED if status == 0 else failed(f"{what} (status {status})")


@dataclasses.dataclass
class Step:
    name: str
    about: str
    run: Callable[[Job], Outcome]
    needs: tuple[str, ...] = ()
    slots: int = 1
    is_default: bool = True
    is_support: bool = False  # builds or installs for others: counted only when it fails


class Board:
    """The steps of one run and where each of them stands. One lock guards all of it."""

    def __init__(self, steps, options):
        self.steps = {step.name: step for step in steps}
        self.options = options
        self.outcomes = {}
        self.total = Outcome()
        self.condition = threading.Condition()
        self.free = options.jobs
        self.waiting = list(steps)

    def _take(self):
        """The next step that can start now, or None if there is none left to start. Waits."""
        with self.condition:
            while self.waiting:
                for step in self.waiting:
                    slots = min(step.slots, self.options.jobs)
                    if slots <= self.free and all(n in self.outcomes for n in step.needs):
                        self.waiting.remove(step)
                        self.free -= slots
                        return step
                    if slots > self.free and slots > 1:
                        break  # it has waited long enough: nothing may overtake it
                self.condition.wait()
            return None

    def _run_one(self, step):
        blocked = [n for n in step.needs if self.outcomes[n].failed]
        absent = [n for n in step.needs if not self.outcomes[n].failed and self.outcomes[n].skipped]
        if blocked:
            return skipped(f"{step.name}: not run, because {blocked[0]} failed")
        if absent:
            return skipped(f"{step.name}: {self.outcomes[absent[0]].reasons[0]}")
        job = Job(step.name, self.options)
        try:
            return step.run(job)
        except Exception:
            job.say(traceback.format_exc())
            return failed(f"{step.name}: the step itself broke")
        finally:
            job.log.close()

    def _report(self, step, outcome, seconds):
        word = "FAIL" if outcome.failed else "skip" if outcome.skipped and not outcome.passed else "ok"
        text = str(outcome) if not step.is_support else ""
        print(f"{word:4} {step.name:28} {text:40} {seconds:6.1f} s", flush=True)
        if outcome.failed:
            log = LOGS / (step.name.replace("/", "-") + ".log")
            for name in outcome.failures[:20]:
                print(f"       failed: {name}")
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            print("\n".join("       | " + line for line in lines[-self.options.tail:]))
            print(f"       the whole log: {log.relative_to(ROOT)}", flush=True)

    def _worker(self):
        while (step := self._take()) is not None:
            start = time.monotonic()
            outcome = self._run_one(step)
            with self.condition:
                self.outcomes[step.name] = outcome
                if not step.is_support or outcome.failed or outcome.skipped:
                    self.total.add(outcome)
                self.free += min(step.slots, self.options.jobs)
                self._report(step, outcome, time.monotonic() - start)
                self.condition.notify_all()

    def run(self):
        LOGS.mkdir(parents=True, exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            for future in [pool.submit(self._worker) for _ in range(self.options.jobs)]:
                future.result()
        return self.total


def select(steps, words):
    """The steps that the words name, with everything those need; all default ones without words.

    A word is a step's whole name, or else a group: `stress` is not `stress/cp313t`, too.
    """
    by_name = {step.name: step for step in steps}
    chosen = set()
    for word in words:
        found = [word] if word in by_name else [n for n in by_name if n.startswith(word + "/")]
        if not found:
            groups = sorted({n.split("/")[0] for n in by_name})
            sys.exit(f"tools/test: no step {word}; there are: {' '.join(groups)}")
        chosen.update(found)
    if not words:
        chosen = {step.name for step in steps if step.is_default}
    queue = list(chosen)
    while queue:
        for need in by_name[queue.pop()].needs:
            if need not in chosen:
                chosen.add(need)
                queue.append(need)
    return [step for step in steps if step.name in chosen]
