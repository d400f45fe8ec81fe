"""What every suite shares: where things run, child processes, statistics, the interleaved run.

A suite gives `interleave` its cases, its variants and a function that measures one variant once.
What is counted and how is in counters.py; tables are report.py's.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
IN_GUEST = bool(os.environ.get("PYLOOP_BENCH_GUEST"))
"""Under tools/guest, where CPU clocks count instructions."""
C_SOURCES = ROOT / "bench" / "c"
C_BINARIES = ROOT / ".cache" / "bench"

STARTUP_SECONDS = 20.0
STOP_SECONDS = 10.0
RETRIES_PER_RUN = 10  # disturbed samples measured again, over one whole run

LOOPS = ("asyncio", "uvloop", "pyloop-io_uring", "pyloop-epoll")
"""Event loops by name; `new_loop` makes them."""
PEERS = ("uvloop-aiofastnet", "rloop", "rsloop", "zuvloop")
"""Others, measured in some cases only, where pip has them for the interpreter."""


class BenchError(Exception):
    """A measurement that cannot be believed or could not be made."""


class NothingToMeasure(BenchError):
    """The suite has none of what was asked for."""


@dataclass(frozen=True)
class Cores:
    """Where the server and the client run."""

    server: int
    client: int

    @property
    def shared(self) -> bool:
        return self.server == self.client


def choose_cores() -> Cores:
    available = sorted(os.sched_getaffinity(0))
    return Cores(available[0], available[1] if len(available) > 1 else available[0])


def new_loop(name: str):
    """The event loop called `name`; raises ImportError or RuntimeError with the cause."""
    if name == "asyncio":
        import asyncio

        return asyncio.SelectorEventLoop()
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    if name.startswith("pyloop-"):
        import pyloop

        return pyloop.Loop(backend=name.removeprefix("pyloop-"))
    if name == "uvloop-aiofastnet":
        import aiofastnet
        import uvloop

        return aiofastnet.patch_loop(uvloop.new_event_loop())
    if name in PEERS:
        return importlib.import_module(name).new_event_loop()
    raise BenchError(f"unknown loop {name!r}: one of {', '.join((*LOOPS, *PEERS))}")


def run_python(arguments: list[str], python: str, timeout: float = 60.0) -> str:
    """Standard output of a short child in this folder tree; BenchError with its last line."""
    child = subprocess.run(
        [python, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise BenchError(lines[-1])
    return child.stdout


def loop_problem(name: str, python: str) -> str | None:
    """None if the loop can be made by that interpreter, otherwise why not."""
    code = f"from bench.common import new_loop; new_loop({name!r}).close()"
    try:
        run_python(["-c", code], python)
    except BenchError as error:
        return str(error)
    return None


# --- C programs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    sources: tuple[str, ...]
    libraries: tuple[str, ...] = ()


PROGRAMS = {
    "load": Program(("load.c", "load_open.c", "load_tls_none.c")),
    "load_tls": Program(("load.c", "load_open.c", "load_tls.c"), ("-lssl", "-lcrypto")),
    "echo_epoll": Program(("echo_epoll.c",)),
    "echo_uring": Program(("echo_uring.c",), ("-luring",)),
    "first_answer": Program(("first_answer.c",)),
}
"""The load generator with TLS is a program of its own: without OpenSSL's headers the rest works."""


def build_c(name: str) -> Path:
    """Compiles one of PROGRAMS when a source or a header is newer than the program."""
    program = PROGRAMS[name]
    sources = [C_SOURCES / source for source in program.sources]
    return compile_c(sources, C_BINARIES / name, program.libraries)


def compile_c(sources: list[Path], binary: Path, options: Iterable[str] = ()) -> Path:
    """Compiles sources of bench/c unless the binary is newer than all of them and their headers."""
    newest = max(p.stat().st_mtime for p in [*sources, *C_SOURCES.glob("*.h")])
    if binary.exists() and binary.stat().st_mtime > newest:
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise BenchError("no C compiler: install gcc or set CC")
    partial = binary.with_suffix(f".{os.getpid()}")
    command = [*compiler.split(), "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra"]
    command += [*map(str, sources), "-o", str(partial), *options]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode != 0:
        raise BenchError(f"bench/c: {binary.name} does not compile:\n{built.stderr}")
    partial.rename(binary)
    return binary


_ASK_PYTHON = """
import sysconfig, pyloop
print(sysconfig.get_config_var("EXT_SUFFIX"), sysconfig.get_path("include"), pyloop.get_include(), sep="\\n")
"""


def build_extension(name: str, python: str) -> Path:
    """Compiles bench/c/NAME.c as the module bench_NAME for the interpreter; the folder it is in."""
    suffix, *includes = run_python(["-c", _ASK_PYTHON], python).split("\n")[:3]
    folder = C_BINARIES / f"{name}{suffix}"
    flags = ["-shared", "-fPIC", "-pthread", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
    for include in includes:
        flags += ["-isystem", include]
    compile_c([C_SOURCES / f"{name}.c"], folder / f"bench_{name}{suffix}", flags)
    return folder


# --- processes ----------------------------------------------------------------------------------


def raise_fd_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server under test on its core or cores. Use as a context manager."""

    def __init__(self, argv: list[str], cores: int | set[int], env: dict[str, str] | None = None,
                 stdin: int = subprocess.DEVNULL, pass_fds: tuple[int, ...] = ()):  # fmt: skip
        self._log = tempfile.TemporaryFile()
        self._cores = {cores} if isinstance(cores, int) else cores
        self.process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=self._log,
            preexec_fn=self._in_child,
            pass_fds=pass_fds,
        )

    def _in_child(self) -> None:
        os.sched_setaffinity(0, self._cores)
        raise_fd_limit()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_exc) -> None:
        self.stop()

    def read_port(self) -> int:
        """The port of a server that prints "port N" as its first line."""
        line = self.process.stdout.readline().decode()
        if not line.startswith("port "):
            self._die("did not announce its port")
        return int(line.split()[1])

    def wait_port(self, port: int, timeout: float = STARTUP_SECONDS) -> None:
        """Returns once somebody accepts on the port."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                self._die(f"exited with status {self.process.returncode}")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            time.sleep(0.02)  # between attempts to connect; there is nothing to wait on
        self._die(f"did not accept within {timeout:g} s")

    def pids(self) -> list[int]:
        """The process and all its descendants."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                    queue.extend(int(child) for child in children.split())
        return found

    def rss_bytes(self) -> int:
        total = 0
        for pid in self.pids():
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * resource.getpagesize()

    def log_tail(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]

    def _die(self, what: str) -> None:
        self.stop()
        raise BenchError(f"server {what}\n{self.log_tail()}")

    def stop(self) -> str:
        """Ends it, by force if it must, and returns what it wrote to standard error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                for pid in reversed(self.pids()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()
        self.process.stdout.close()
        return self.log_tail()


class CommandProcess:
    """A process that says when it is ready, then answers each line with one line of JSON. A context manager."""

    def __init__(self, argv: list[str], cores: set[int], pass_fds: tuple[int, ...] = ()):
        self._process = subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            pass_fds=pass_fds,
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        self._process.wait(STOP_SECONDS)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            error = self._process.stderr.read().strip()
            self.__exit__()
            raise BenchError(error or f"{self._process.args[0]} ended")
        return line

    def command(self, line: str) -> dict:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return json.loads(self._answer())


class LoadProcess(CommandProcess):
    """A load generator ("run SECONDS", "count N"); ready when every connection was served once."""

    def _load(self, line: str) -> dict:
        result = self.command(line)
        if result["connections_served"] != min(result["connections"], result["messages"]):
            raise BenchError(f"only {result['connections_served']} connections were served")
        return result

    def run(self, seconds: float) -> dict:
        return self._load(f"run {seconds}")

    def count(self, messages: int) -> dict:
        return self._load(f"count {messages}")

    def pace(self, messages_per_s: float, seconds: float) -> dict:
        """Latencies count from when a message was due, so one that waits for another is not left out."""
        return self._load(f"pace {messages_per_s} {seconds}")


class Load(LoadProcess):
    """The native load generator (bench/c/load.c)."""

    def __init__(self, port: int, connections: int, core: int, *, size: int = 0, http: str = "",
                 expect: str = "", options: tuple[str, ...] = (), pass_fds: tuple[int, ...] = (),
                 ):  # fmt: skip
        """`options` and `pass_fds` are for what is not TCP; the port is then 0 where there is none."""
        argv = [str(build_c("load_tls" if "--tls" in options else "load")), *options]
        argv += ["--port", str(port)] if port else []
        argv += ["--connections", str(connections)]
        argv += ["--http", http, "--expect", expect] if http else ["--size", str(size)]
        super().__init__(argv, {core}, pass_fds)


# --- samples and statistics ---------------------------------------------------------------------


@dataclass
class Sample:
    """One measurement of one variant in one round."""

    case: str
    variant: str
    round: int
    metrics: dict[str, float]
    disturbed: float = 0.0  # share of either core's time that others took


ROUNDS_MIN = 3  # a median of fewer says little


@dataclass
class Budget:
    """A time limit for a suite: each case gets an equal part of what is left of it, three rounds at
    least. Once the limit is passed the rest gets one round and no Cachegrind."""

    seconds: float
    started: float = field(default_factory=time.monotonic)
    cases_left: int = 0
    case_ends: float = 0.0

    def next_case(self) -> None:
        now = time.monotonic()
        left = self.started + self.seconds - now
        self.case_ends = now + left / max(1, self.cases_left)
        self.cases_left -= 1

    def is_over(self) -> bool:
        return time.monotonic() > self.started + self.seconds

    def has_time(self, rounds_done: int, case_started: float) -> bool:
        """Whether one more round is likely to end in time."""
        if rounds_done < (1 if self.is_over() else ROUNDS_MIN):
            return True
        now = time.monotonic()
        return now + (now - case_started) / rounds_done <= self.case_ends


@dataclass
class Plan:
    """How much to measure; the command line's choices."""

    pairs: int = 7
    seconds: float = 2.0
    quick: bool = False
    same_twice: bool = False  # also the baseline against itself (A/A)
    disturbed_max: float = 0.05
    instructions: str = "auto"
    python: str = sys.executable
    variants: list[str] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    cores: Cores = field(default_factory=choose_cores)
    retries_left: int = RETRIES_PER_RUN
    skipped: dict[str, str] = field(default_factory=dict)  # variant: why
    uncounted: dict[str, str] = field(default_factory=dict)  # "case, variant": why
    is_part: bool = False  # of `all`: variants are named for every suite, each takes those that it has
    budget: Budget | None = None  # `pairs` is then the most
    round: int = 0  # the one that is being measured

    def counts_syscalls(self) -> bool:
        """They vary little: where time is limited, the first round tells."""
        return self.budget is None or self.round == 0

    def each(self, cases: Iterable[str]) -> Iterator[str]:
        """The cases, in order; tells the budget that one begins."""
        cases = list(cases)
        if self.budget is not None:
            self.budget.cases_left = len(cases)
        for case in cases:
            if self.budget is not None:
                self.budget.next_case()
            yield case


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


AGAIN = " (again)"
"""Suffix of the baseline's second copy in an A/A run."""


def chosen(
    plan: Plan,
    known: tuple[str, ...],
    baseline: str,
    problem: Callable[[str, str], str | None],
) -> list[str]:
    """The variants to run, in order, with the A/A copy where it was asked for.

    One that cannot run here is skipped aloud; asked for by name, it is an error.
    """
    unknown = [name for name in plan.variants if name not in known]
    if plan.is_part and len(unknown) < len(plan.variants):
        plan.variants = [name for name in plan.variants if name in known]
    elif plan.is_part and unknown:
        raise NothingToMeasure(f"has none of {', '.join(unknown)}")
    elif unknown:
        raise BenchError(f"unknown variant {unknown[0]!r}: one of {', '.join(known)}")
    names = []
    for name in known:
        if plan.variants and name not in plan.variants:
            continue
        cause = problem(name, plan.python)
        if cause is None:
            names.append(name)
        elif plan.variants:
            raise BenchError(f"{name}: {cause}")
        else:
            plan.skipped[name] = cause
            say(f"SKIPPED {name}: {cause}")
    if plan.same_twice and baseline in names:
        names.append(baseline + AGAIN)
    if not names:
        raise NothingToMeasure("nothing to measure")
    return names


def interleave(
    plan: Plan, case: str, variants: list[str], measure: Callable[[str], Sample]
) -> Iterator[Sample]:
    """A B C, B C A, C A B: each round measures every variant once, starting one further.

    A sample that other processes disturbed is measured again while retries last; what is kept
    carries how disturbed it was. A peer that cannot do the case leaves it, aloud; any other
    failure ends the run.
    """
    left = set()
    started = time.monotonic()
    for number in range(plan.pairs):
        if plan.budget is not None and not plan.budget.has_time(number, started):
            break
        plan.round = number
        shift = number % len(variants)
        for variant in variants[shift:] + variants[:shift]:
            if variant in left:
                continue
            try:
                sample = measure(variant.removesuffix(AGAIN))
            except BenchError as error:
                if variant not in PEERS:
                    raise
                left.add(variant)
                plan.skipped[f"{case}, {variant}"] = str(error).strip().splitlines()[-1]
                say(f"SKIPPED {case}, {variant}: {plan.skipped[f'{case}, {variant}']}")
                continue
            if sample.disturbed > plan.disturbed_max and plan.retries_left > 0:
                plan.retries_left -= 1
                other = measure(variant.removesuffix(AGAIN))
                sample = min(sample, other, key=lambda s: s.disturbed)
            sample.case, sample.variant, sample.round = case, variant, number
            note = f"  disturbed {sample.disturbed:.0%}" if sample.disturbed > 0.05 else ""
            say(f"  {case}  round {number + 1}/{plan.pairs}  {variant}{note}")
            yield sample


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles and extremes."""
    ordered = sorted(values)
    if len(ordered) >= 2:
        low, _, high = statistics.quantiles(ordered, n=4, method="inclusive")
    else:
        low = high = ordered[0]
    return {
        "median": statistics.median(ordered),
        "q1": low,
        "q3": high,
        "min": ordered[0],
        "max": ordered[-1],
        "n": len(ordered),
    }


def summarize(samples: list[Sample], baseline: str) -> list[dict]:
    """Per case and variant: every metric's spread, and the spread of its paired ratios.

    A ratio is formed within a round, so that slow drift of the machine cancels.
    """
    table: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for sample in samples:
        table.setdefault((sample.case, sample.variant), {})[sample.round] = sample.metrics
    rows = []
    for (case, variant), rounds in table.items():
        reference = table.get((case, baseline), {})
        metrics, ratios = {}, {}
        for name in sorted({name for found in rounds.values() for name in found}):
            metrics[name] = spread([found[name] for found in rounds.values() if name in found])
            paired = [
                found[name] / reference[number][name]
                for number, found in rounds.items()
                if name in found and reference.get(number, {}).get(name)
            ]
            if paired:
                ratios[name] = spread(paired)
        rows.append({"case": case, "variant": variant, "metrics": metrics, "ratios": ratios})
    return rows


# --- what the figures were measured on ----------------------------------------------------------

_PACKAGES = ("uvloop", "aiofastnet", "rloop", "rsloop", "zuvloop", "uvicorn", "httptools", "granian", "fastapi",
             "starlette", "pydantic", "aiohttp", "websockets",
             "asyncpg", "redis", "data-bridge-pyloop")  # fmt: skip

_VERSIONS_CODE = f"""
import importlib.metadata as m, json, platform, sys, sysconfig
found = {{}}
for name in {_PACKAGES!r}:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: pass
flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
found["python"] = platform.python_implementation() + " " + platform.python_version()
found["python build"] = " ".join(
    f for f in ("--enable-optimizations", "--with-lto", "--disable-gil") if f in flags) or "plain"
print(json.dumps(found))
"""


def _first_line(command: list[str]) -> str | None:
    if not shutil.which(command[0]):
        return None
    child = subprocess.run(command, capture_output=True, text=True)
    lines = (child.stdout + child.stderr).strip().splitlines()
    return re.sub(r"\s+", " ", lines[0]).split(" Copyright")[0] if lines else None


def versions(python: str) -> dict[str, str]:
    found = json.loads(run_python(["-c", _VERSIONS_CODE], python))
    tools = {
        "wrk": ["wrk", "-v"],
        "h2load": ["h2load", "--version"],
        "perf": ["perf", "--version"],
        "valgrind": ["valgrind", "--version"],
        "hyperfine": ["hyperfine", "--version"],
        "cc": [os.environ.get("CC", "cc"), "--version"],
        "pyloop commit": ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
    }
    for name, command in tools.items():
        line = _first_line(command)
        if line:
            found[name] = line.removeprefix(f"{name} ")
    return found


def machine(cores: Cores) -> dict[str, object]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu.group(1) if cpu else platform.processor(),
        "cpus": os.cpu_count(),
        "memory_gib": round(int(memory.group(1)) / 2**20) if memory else None,
        "hypervisor": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "server_core": cores.server,
        "client_core": cores.client,
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "libc": " ".join(platform.libc_ver()),
        "arch": sysconfig.get_platform(),
    }
