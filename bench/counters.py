"""What a measurement counts: CPU time, instructions, system calls, and disturbance by others.

Four sources, each named in the result, none ever guessed:

- CPU time of the server's processes, exact to the nanosecond (their CPU clocks); its split into
  user and kernel follows the timer tick of the kernel and is good to about one per cent a second.
- hardware instruction counters (``perf stat -e instructions:u,instructions:k``) where the machine
  has them; many virtual machines do not. Then user instructions come from Cachegrind, in a pass of
  its own, and kernel instructions are not known.
- in a guest of tools/guest the CPU clocks themselves count instructions, of user and kernel
  together, one a nanosecond; there the split by timer ticks says nothing and is left out.
- system calls by the tracepoint ``raw_syscalls:sys_enter``, which slows every call a little and
  so has a window of its own, never the timed one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import targets
from bench.common import AGAIN, IN_GUEST, BenchError, Cores, Plan, Sample, Server, say

HARDWARE = ("instructions:u", "instructions:k")
SYSCALLS = "raw_syscalls:sys_enter"
PERF_SECONDS = 20.0
CACHEGRIND_SECONDS = 90.0  # for one child; a deadlock under Valgrind must end some time
CACHEGRIND_END_SECONDS = 60.0
NUDGES = 20  # connections between two looks at whether the server has ended
CACHEGRIND_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    # Valgrind counts every byte of a `rep movsb` as an instruction, a processor the whole as one:
    # glibc is told to copy with vectors, as it does below 4 KiB anyway.
    "GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=1073741824:"
    "glibc.cpu.x86_rep_stosb_threshold=1073741824",
}
_TICK = os.sysconf("SC_CLK_TCK")
_SCHED_CLOCK = 2  # CPUCLOCK_SCHED of the kernel's per-process clock ids
CACHEGRIND = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--trace-children=yes",
              "--cachegrind-out-file=/dev/null"]  # fmt: skip


def cpu_ns(pids: list[int]) -> int:
    """CPU time used so far, by all threads, living and ended."""
    return sum(time.clock_gettime_ns((~pid << 3) | _SCHED_CLOCK) for pid in pids)


def process_stat(pids: list[int]) -> dict[str, int]:
    """Ticks in user and kernel mode, and minor page faults, of all threads."""
    total = {"user": 0, "system": 0, "faults": 0}
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total["faults"] += int(fields[7])
        total["user"] += int(fields[11])
        total["system"] += int(fields[12])
    return total


def core_idle_ns(core: int) -> int:
    """Time nothing ran on the core; what is missing went to somebody, the hypervisor included."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            fields = line.split()
            return (int(fields[4]) + int(fields[5])) * (10**9 // _TICK)
    raise BenchError(f"no core {core} in /proc/stat")


@functools.cache
def hardware_problem() -> str | None:
    """None if instructions can be counted by hardware, otherwise why not."""
    return _event_problem(HARDWARE)


@functools.cache
def syscalls_problem() -> str | None:
    return _event_problem((SYSCALLS,))


def _event_problem(events: tuple[str, ...]) -> str | None:
    if not shutil.which("perf"):
        return "perf is not installed"
    child = subprocess.run(
        ["perf", "stat", "-x", ";", "-e", ",".join(events), "true"], capture_output=True, text=True
    )
    counts = _parse_perf(child.stderr)
    missing = [event for event in events if event not in counts]
    if not missing:
        return None
    if "<not supported>" in child.stderr:
        return f"this machine has no counter for {missing[0]}"
    lines = child.stderr.strip().splitlines() or ["no output"]
    return f"perf cannot count {missing[0]}: {lines[0]}"


def _parse_perf(text: str) -> dict[str, int]:
    counts = {}
    for line in text.splitlines():
        fields = line.split(";")
        if len(fields) > 2 and fields[0].isdigit():
            counts[fields[2]] = int(fields[0])
    return counts


class Perf:
    """``perf stat`` on processes, switched on and off exactly around a window."""

    def __init__(self, events: tuple[str, ...], pids: list[int]):
        command_r, self._command = os.pipe()
        self._ack, ack_w = os.pipe()
        self._process = subprocess.Popen(
            ["perf", "stat", "-x", ";", "-e", ",".join(events), "-D", "-1",
             "-p", ",".join(map(str, pids)), "--control", f"fd:{command_r},{ack_w}"],
            pass_fds=(command_r, ack_w),
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        os.close(command_r)
        os.close(ack_w)

    def switch(self, state: str) -> None:
        os.write(self._command, state.encode() + b"\n")
        if not os.read(self._ack, 16).startswith(b"ack"):
            raise BenchError("perf did not obey")

    def stop(self) -> dict[str, int]:
        self._process.send_signal(signal.SIGINT)
        text = self._process.communicate(timeout=PERF_SECONDS)[1]
        os.close(self._command)
        os.close(self._ack)
        return _parse_perf(text)


class Window:
    """Counts what a server uses between entering and leaving.

    After leaving: `cpu`, `user`, `system`, `wall` in nanoseconds, `faults`, `events` by perf's
    names, `disturbed` as the larger share of the two cores' time that neither the server nor the
    client used. The client's CPU time is what the caller's children and `client_pids` used.
    """

    def __init__(self, server: Server, cores: Cores, events: tuple[str, ...] = (),
                 client_pids: tuple[int, ...] = ()):  # fmt: skip
        self._pids = server.pids()
        self._cores = cores
        self._client_pids = list(client_pids)
        self._perf = Perf(events, self._pids) if events else None
        self.events: dict[str, int] = {}

    def _snapshot(self) -> dict[str, int]:
        times = os.times()
        client = times.user + times.system + times.children_user + times.children_system
        return {
            "wall": time.monotonic_ns(),
            "cpu": cpu_ns(self._pids),
            **process_stat(self._pids),
            "client": int(client * 1e9) + cpu_ns(self._client_pids),
            "server_idle": core_idle_ns(self._cores.server),
            "client_idle": core_idle_ns(self._cores.client),
        }

    def __enter__(self) -> Window:
        if self._perf:
            self._perf.switch("enable")
        self._before = self._snapshot()
        return self

    def __exit__(self, kind, *_rest) -> None:
        if kind is not None:
            if self._perf:
                self._perf.stop()
            return
        after = self._snapshot()
        if self._perf:
            self._perf.switch("disable")
            self.events = self._perf.stop()
        used = {name: after[name] - before for name, before in self._before.items()}
        ticks = max(1, used["user"] + used["system"])
        self.wall, self.cpu, self.faults = used["wall"], used["cpu"], used["faults"]
        self.user = self.cpu * used["user"] / ticks
        self.system = self.cpu * used["system"] / ticks
        self.disturbed = self._disturbed(used)

    def _disturbed(self, used: dict[str, int]) -> float:
        wall = used["wall"]
        if self._cores.shared:
            others = wall - used["server_idle"] - used["cpu"] - used["client"]
        else:
            others = max(
                wall - used["server_idle"] - used["cpu"],
                wall - used["client_idle"] - used["client"],
            )
        return min(1.0, max(0.0, others / max(1, wall)))

    def clocks(self, count: int) -> dict[str, float]:
        """What the CPU clocks counted for one of `count` requests: time, in a guest instructions."""
        return {"instr" if IN_GUEST else "cpu_ns": self.cpu / count}

    def per(self, count: int) -> dict[str, float]:
        """The metrics of the window, each for one of `count` requests."""
        metrics = {
            **self.clocks(count),
            "faults": self.faults / count,
            "server_busy": self.cpu / self.wall,
        }
        if not IN_GUEST:
            metrics["user_ns"] = self.user / count
            metrics["kernel_ns"] = self.system / count
        names = dict(zip((*HARDWARE, SYSCALLS), ("user_instr", "kernel_instr", "syscalls")))
        for event, value in self.events.items():
            metrics[names[event]] = value / count
        return metrics


# --- user instructions without hardware counters ------------------------------------------------


def instruction_source(choice: str) -> tuple[str, str | None]:
    """("perf" | "guest" | "cachegrind" | "none", why it is not perf)."""
    if IN_GUEST:
        return "guest", None
    if choice == "guest":
        raise BenchError("--instructions guest is for tools/bench, which starts the guest")
    problem = hardware_problem()
    if choice == "none":
        return "none", "not asked for"
    if choice in ("auto", "perf") and problem is None:
        return "perf", None
    if choice == "perf":
        raise BenchError(f"instructions cannot be counted: {problem}")
    if shutil.which("valgrind"):
        return "cachegrind", problem or "Cachegrind was asked for"
    if choice == "cachegrind":
        raise BenchError("valgrind is not installed")
    return "none", f"{problem}, and valgrind is not installed"


def counted(plan: Plan, suite: str, case: str, names: list[str]) -> list[str]:
    """The variants whose instructions Cachegrind is to count. It takes long: where time is limited,
    only those that a target compares."""
    if instruction_source(plan.instructions)[0] != "cachegrind":
        return []
    if plan.budget is None:
        return names
    if plan.budget.is_over():
        plan.uncounted[case] = "the time limit had passed"
        return []
    return [
        name for name in names
        if targets.wants_instructions(suite, case, name.removesuffix(AGAIN))
    ]  # fmt: skip


class Cachegrind:
    """Runs a command under Cachegrind and sums the instructions of all its processes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-cachegrind-")

    def command(self, argv: list[str]) -> list[str]:
        return [*CACHEGRIND, f"--log-file={self._folder.name}/%p", *argv]

    @staticmethod
    def end(server: Server, port: int) -> None:
        """Asks the server to end. Valgrind 3.19 lets no signal interrupt io_uring_enter and looks
        for signals only every 100,000 blocks of code, so connections keep the server busy till
        then: at most 0.5 M instructions, in both runs alike."""
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + CACHEGRIND_END_SECONDS
        while server.process.poll() is None and time.monotonic() < deadline:
            for _ in range(NUDGES):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.02)

    def instructions(self) -> int:
        """After the command ended."""
        total = 0
        for log in Path(self._folder.name).iterdir():
            found = re.search(r"I\s+refs:\s+([\d,]+)", log.read_text(errors="replace"))
            total += int(found.group(1).replace(",", "")) if found else 0
            log.unlink()
        if total == 0:
            raise BenchError("Cachegrind reported no instructions")
        return total


def instructions_per(run, count: int) -> float:
    """User instructions of one more operation: two runs, of `count` and of 3 x `count`.

    `run(n)` performs n operations from process start to end and returns all instructions; the
    difference cancels start-up, warm-up and tear-down.
    """
    return (run(3 * count) - run(count)) / (2 * count)


def add_instructions(
    plan: Plan, samples: list[Sample], names: list[str], count: Callable[[str], float]
) -> None:
    """Gives all samples of a variant one figure, `count(name)`: the pass is deterministic.

    Where Valgrind cannot run the variant (with io_uring it lets no second thread run while one
    waits) the figure stays unknown and the result says why.
    """
    for name in names:
        where = f"{samples[0].case}, {name}"
        try:
            value = count(name.removesuffix(AGAIN))
        except BenchError as error:
            plan.uncounted[where] = str(error)
            say(f"  {where}: NOT COUNTED: {error}")
            continue
        say(f"  {where}: {value:,.0f} user instructions (Cachegrind)")
        for sample in samples:
            if sample.variant == name:
                sample.metrics["user_instr"] = value
