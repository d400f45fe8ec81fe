"""tools/test: the plan (every step and what it needs), the command line, the totals."""

import argparse
import os
import sys

import cbuild
import downstream
import packaging_step
import pythons
from runner import ROOT, Board, Step, select, stop_on_signals


def tidy(job):
    return job.check("tidy", [sys.executable, "tools/tidy.py"])


def formatting(job):
    return job.check("format", ["tools/format", "--check"])


def c_steps():
    """The C builds and the suites each of them runs. The order is the order in which they start."""
    steps = []
    for variant, (compiler, options, _) in cbuild.VARIANTS.items():
        steps.append(Step(f"build/{variant}", f"compile with {compiler} {' '.join(options)}",
                          lambda job, v=variant: cbuild.build(job, v)))

    def suite(name, variant, suites, about):
        steps.append(Step(name, about, lambda job: cbuild.run_suites(job, variant, suites),
                          needs=(f"build/{variant}",)))

    every = ["unit", "backend", "sim", "stress", "fuzz"]
    suite("unit", "gcc", ["unit"], "Criterion suites of the layers")
    suite("backend/native", "gcc", ["backend"], "the backend suite on io_uring, epoll and sim")
    suite("backend/kqueue", "kqueue", ["backend"], "the same on kqueue, over the emulation")
    suite("sim", "gcc", ["sim"], "simulation by seeds")
    suite("api", "gcc", ["api"], "a C program against the installed headers")
    suite("model", "gcc", ["model"], "every interleaving of the scheduler's protocols (spin)")
    suite("stress", "gcc", ["stress"], "threads against each other")
    suite("tiny", "tiny", every, "everything with tiny queues and rings")
    suite("asan/c", "asan", every, "everything under ASan and UBSan")
    suite("tsan", "tsan", ["stress"], "the stress programs under ThreadSanitizer")
    suite("tsan-tiny", "tsan-tiny", ["stress"], "the same with tiny queues")
    suite("fuzz", "asan", ["fuzz"], "the fuzz corpora, replayed")
    steps.append(Step("asan/python", "the Python tests with the extension under ASan and UBSan",
                      pythons.asan_smoke, needs=("build/asan",)))
    return steps


def python_steps():
    steps = []
    others = [v for v in (*pythons.OTHER_VERSIONS, pythons.FREE_THREADED)
              if pythons.tag_of(v) != pythons.own_tag()]
    for version in reversed(others):  # the free-threaded one takes longest
        steps.append(Step(f"setup/{pythons.tag_of(version)}", f"pyloop for CPython {version}",
                          lambda job, v=version: pythons.set_up(job, v), is_default=version in pythons.IN_CI,
                          is_support=True))
    tags = {tag: () if tag == pythons.own_tag() else (f"setup/{tag}",)
            for tag in [pythons.own_tag(), *map(pythons.tag_of, others)]}
    ends = {pythons.own_tag(), pythons.tag_of(pythons.FREE_THREADED)}
    in_ci = {pythons.own_tag(), *map(pythons.tag_of, pythons.IN_CI)}
    for kind, run, about, defaults in (
        ("python", pythons.python_tests, "tests/python", in_ci),
        ("cpython", pythons.conformance, "CPython's own asyncio tests", in_ci),
    ):
        for tag, needs in tags.items():
            for backend in pythons.BACKENDS:
                steps.append(Step(f"{kind}/{tag}/{backend}", f"{about} on {tag}, {backend}",
                                  lambda job, r=run, t=tag, b=backend: r(job, t, b), needs=needs,
                                  # In between, one backend: both ends of the range are tested on both,
                                  # and CI has 40 minutes.
                                  is_default=tag in defaults and (tag in ends or backend == pythons.BACKENDS[0])))
    for tag, needs in tags.items():
        steps.append(Step(f"cpython-types/{tag}", f"CPython's tests of tasks, streams and locks on our types, {tag}",
                          lambda job, t=tag: pythons.native_types(job, t), needs=needs,
                          is_default=tag in ends))
    tag = pythons.tag_of(pythons.FREE_THREADED)
    steps.append(Step(f"stress/{tag}", f"{pythons.STRESS_TASKS:,} strands on four workers, three times, on {tag}",
                      pythons.stress, needs=tags[tag], is_default=False))
    return steps


MATRIX_WORDS = ["cpython", "cpython-types", "python/cp312/io_uring", "python/cp312/epoll", "python/cp313/epoll",
                "matrix", "stress/cp313t"]


def matrix_steps():
    """What --matrix adds to cpython/: debug mode, and the versions that take a system of their own."""
    steps = []
    for version in pythons.FORKY_VERSIONS:
        steps.append(Step(f"setup/{pythons.tag_of(version)}", f"pyloop for CPython {version}",
                          lambda job, v=version: pythons.set_up(job, v), is_default=False, is_support=True))
    tags = {pythons.tag_of(v) for v in (*pythons.OTHER_VERSIONS, pythons.FREE_THREADED, *pythons.FORKY_VERSIONS)}
    for tag in [pythons.own_tag(), *sorted(tags - {pythons.own_tag()})]:
        needs = () if tag == pythons.own_tag() else (f"setup/{tag}",)

        def add(what, about, run, tag=tag, needs=needs):
            for backend in pythons.BACKENDS:
                steps.append(Step(f"matrix/{tag}/{backend}/{what}", f"{about} on {tag}, {backend}",
                                  lambda job, b=backend: run(job, tag, b), needs=needs, is_default=False))

        if tag in map(pythons.tag_of, pythons.FORKY_VERSIONS):
            add("python", "tests/python", pythons.python_tests)
            add("cpython", "CPython's own asyncio tests", pythons.conformance)
            steps.append(Step(f"matrix/{tag}/types", f"CPython's tests of tasks, streams and locks on our types, {tag}",
                              lambda job, t=tag: pythons.native_types(job, t), needs=needs, is_default=False))
        add("debug", "the same in debug mode", lambda *where: pythons.conformance(*where, debug=True))
    return steps


def downstream_steps():
    """Only on request: they fetch sources and take a quarter of an hour."""
    steps = [Step("downstream/setup", "sources, environment and PostgreSQL for them", downstream.set_up,
                  is_default=False, is_support=True)]
    for suite in downstream.SUITES:
        # Two slots: their tests measure time, nothing else of ours shall run beside them.
        steps.append(Step(f"downstream/{suite.name}", f"the suite of {suite.name}, against stock asyncio",
                          lambda job, s=suite: downstream.run(job, s), needs=("downstream/setup",), slots=2,
                          is_default=False))
    return steps


def plan():
    checks = [
        Step("format", "clang-format", formatting),
        Step("tidy", "layers, sizes, names, what style.md asks for", tidy),
    ]
    return [
        *checks,
        *c_steps(),
        *python_steps(),
        *matrix_steps(),
        Step("package", "source distribution, wheel, pip install in a new environment",
             packaging_step.run),
        Step("types", "the type stubs against the modules (mypy's stubtest)", pythons.stubtest),
        Step("soak", "memory, descriptors and objects stay flat under load", pythons.soak, slots=2),
        *downstream_steps(),
    ]


def options_of(arguments):
    parser = argparse.ArgumentParser(
        prog="tools/test", allow_abbrev=False,
        epilog="Other arguments go to pytest; a path replaces tests/python.")
    parser.add_argument("--list", action="store_true", help="print the steps")
    parser.add_argument("--matrix", action="store_true", help="CPython's own asyncio tests on every version, "
                        "with and without debug mode, and tests/python on those that CI leaves out: "
                        "the steps " + ", ".join(MATRIX_WORDS))
    parser.add_argument("--downstream", action="store_true", help="only the suites of anyio, websockets, "
                        "uvicorn and asyncpg, compared with stock asyncio")
    parser.add_argument("-k", dest="keyword", help="tests to run: pytest's expression, or a part of "
                        "the name of a C suite")
    parser.add_argument("--jobs", type=int, default=max(2, os.cpu_count() or 2),
                        help="steps at a time (default: one a core)")
    parser.add_argument("--tail", type=int, default=30, help="lines of a failed step's log to show")
    options, rest = parser.parse_known_args(arguments)
    options.compile_jobs = max(1, (os.cpu_count() or 2) // 2)
    options.words = []
    while rest and not rest[0].startswith("-") and not is_path(rest[0]):
        options.words.append(rest.pop(0))
    options.words += MATRIX_WORDS if options.matrix else []
    options.words += ["downstream"] if options.downstream else []
    options.pytest = rest
    if rest and not options.words:
        options.words = ["python/" + pythons.own_tag()]
    return options


def is_path(word):
    return "::" in word or word.endswith(".py") or (ROOT / word).exists() and "/" in word


def main():
    options = options_of(sys.argv[1:])
    steps = plan()
    if options.list:
        for step in steps:
            print(f"{step.name:28} {step.about}")
        return 0
    # The tools of the environment (meson, ninja) and nothing of the caller's Python settings.
    os.environ["PATH"] = os.path.dirname(sys.executable) + ":" + os.environ.get("PATH", "/usr/bin:/bin")
    for name in ("PYTHONPATH", "PYTHONHOME", "PYLOOP_BACKEND"):
        os.environ.pop(name, None)
    os.chdir(ROOT)
    stop_on_signals()
    total = Board(select(steps, options.words), options).run()
    if total.reasons:
        print("\nSKIPPED, and why:")
        counted = {}
        for reason in total.reasons:
            counted[reason] = counted.get(reason, 0) + 1
        for reason, count in counted.items():
            print(f"  {reason}" + (f" ({count} times)" if count > 1 else ""))
    if total.failures:
        print("\nFAILED:")
        for name in total.failures:
            print(f"  {name}")
    print(f"\n{total}", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
