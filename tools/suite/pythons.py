"""The interpreters that pyloop is tested on, and the Python-side steps for one of them."""

import glob
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree

from cbuild import asan_preload, folder, read_totals
from runner import LOGS, PASSED, ROOT, Outcome, failed, skipped

BACKENDS = ("io_uring", "epoll")
OTHER_VERSIONS = ("3.12", "3.13")
FREE_THREADED = "3.13t"
IN_CI = ("3.13", FREE_THREADED)  # and that of .venv; the others on request
STRESS_TASKS = 1_000_000
STRESS_SECONDS = 1200  # for one run, which takes a minute
FORKY_VERSIONS = ("3.14", "3.15")  # in the system that tools/debian-forky makes


def tag_of(version):
    return "cp" + version.replace(".", "")


def own_tag():
    """The tag of the interpreter of .venv, which runs us."""
    free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return "cp%d%d%s" % (*sys.version_info[:2], free)


def venv_python(tag):
    name = ".venv" if tag == own_tag() else ".venv-" + tag
    return ROOT / name / "bin" / "python"


def command_of(tag, env=None):
    """How to start the Python of a tag, with variables added to its environment: the first words of a command."""
    settings = [f"{name}={value}" for name, value in (env or {}).items()]
    words = ["env", *settings] if settings else []
    for version in FORKY_VERSIONS:
        if tag == tag_of(version) != own_tag():
            return [ROOT / "tools" / "debian-forky", version, *words, venv_python(tag)]
    return [*words, venv_python(tag)]


def find(version):
    """The path of a working interpreter of that version, or None: pyenv's first, then PATH."""
    homes = [os.environ.get("PYENV_ROOT"), os.path.expanduser("~/.pyenv"),
             pwd.getpwuid(os.getuid()).pw_dir + "/.pyenv"]
    candidates = []
    for home in filter(None, homes):
        candidates += sorted(glob.glob(f"{home}/versions/{version}.*/bin/python{version}"), reverse=True)
    candidates.append(shutil.which("python" + version))
    for path in filter(None, candidates):
        probe = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([path, "-c", probe], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return path
    return None


def set_up(job, version):
    """Make .venv-<tag> for another interpreter. Skips when the machine has no such interpreter."""
    if version in FORKY_VERSIONS:
        status, output = job.run([ROOT / "tools" / "debian-forky", version])
        if status == 77:
            return skipped(f"no CPython {version}: {output.strip().splitlines()[-1]}")
        return PASSED if status == 0 else failed(f"tools/debian-forky {version}")
    if version == FREE_THREADED:
        status, output = job.run([ROOT / "tools" / "build-cpython-ft"])
        if status != 0:
            return failed("tools/build-cpython-ft")
        path = output.strip().splitlines()[-1]
    else:
        path = find(version)
        if path is None:
            return skipped(f"no CPython {version} on this machine (looked in ~/.pyenv and PATH)")
    status, _ = job.run([ROOT / "tools" / "setup", "--for", "test", "--python", path])
    return PASSED if status == 0 else failed(f"tools/setup --python {path}")


def backend_trouble(job, tag, backend):
    """None if the backend works here, else why not, in one line."""
    code = f"import pyloop; pyloop.Loop(backend={backend!r}).close()"
    status, output = job.run([*command_of(tag), "-c", code], cwd="/")
    if status == 0:
        return None
    last = (output.strip().splitlines() or ["no output"])[-1]
    return last if last.startswith("RuntimeError") else ""


def read_junit(path):
    """Counts and names from pytest's XML, or None if pytest died before it wrote it."""
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
    except (OSError, xml.etree.ElementTree.ParseError):
        return None
    outcome = Outcome()
    for case in root.iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.add(failed(name))
        elif (skip := case.find("skipped")) is not None:
            outcome.add(skipped(f"{name}: {skip.get('message')}"))
        else:
            outcome.passed += 1
    return outcome


def run_pytest(job, python, label, paths, env, timeout=1500):
    """Run pytest in the project's folder; without a result file the run itself is the failure.

    `python`: the words of a command.
    """
    xml_path = LOGS / (label.replace("/", "-") + ".xml")
    xml_path.unlink(missing_ok=True)
    command = [*python, "-m", "pytest", "-q", f"--junitxml={xml_path}", "-o", "junit_family=xunit1",
               *(job.options.pytest or paths)]
    if job.options.keyword:
        command += ["-k", job.options.keyword]
    env = {"PYTHONDEVMODE": "", "PYTHONUNBUFFERED": "1", **env}
    status, _ = job.run(command, env=env, timeout=timeout)
    outcome = read_junit(xml_path)
    if outcome is None or (status not in (0, 1, 5) and not outcome.failed):
        return failed(f"{label}: pytest ended with status {status}")
    if status == 5 or not (outcome.passed or outcome.failed or outcome.skipped):
        return Outcome() if job.options.keyword or job.options.pytest else failed(f"{label}: no tests")
    return outcome


def on_backend(job, tag, backend, run):
    """Run something on a backend, unless this machine does not have it."""
    trouble = backend_trouble(job, tag, backend)
    if trouble == "":
        return failed(f"{tag}: no loop on {backend}")
    if trouble is not None:
        return skipped(f"{tag} {backend}: {trouble}")
    return run()


def python_tests(job, tag, backend):
    return on_backend(job, tag, backend, lambda: run_pytest(
        job, command_of(tag, {"PYLOOP_BACKEND": backend}), f"python/{tag}/{backend}", ["tests/python"], {}))


def stress(job):
    """The million of tests/python/test_parallel_stress.py where strands really run at once, three times."""
    tag = tag_of(FREE_THREADED)
    total = Outcome()
    for number, backend in enumerate((*BACKENDS, BACKENDS[0]), 1):
        python = command_of(tag, {"PYLOOP_BACKEND": backend, "PYLOOP_STRESS_TASKS": str(STRESS_TASKS)})
        label = f"stress/{tag}/{number}-{backend}"
        total.add(on_backend(job, tag, backend, lambda p=python, name=label: run_pytest(
            job, p, name, ["tests/python/test_parallel_stress.py"], {}, timeout=STRESS_SECONDS)))
    return total


def conformance(job, tag, backend, debug=False):
    """CPython's own asyncio tests, against the loop."""
    def run():
        python = command_of(tag)
        status, output = job.run([*python, "-c", "import test.test_asyncio"], cwd="/")
        if status != 0:
            return skipped(f"cpython/{tag}: this interpreter comes without its test package")
        label = f"cpython/{tag}/{backend}" + "/debug" * debug
        command = [*python, "tests/cpython/run.py", "--backend", backend] + ["--debug"] * debug
        status, output = job.run(command)
        outcome = read_totals(output, label) or failed(f"{label}: no totals")
        outcome.reasons = [f"{label}: {why}" for why in re.findall(r"^SKIP (.+)", output, re.MULTILINE)]
        if outcome.failed:
            outcome.failures = [f"{label}: {name}" for name in re.findall(r"^FAIL (\S+)", output, re.MULTILINE)]
        if status != 0 and not outcome.failed:
            outcome.add(failed(f"{label} (status {status})"))
        return outcome
    return on_backend(job, tag, backend, run)


def native_types(job, tag):
    """CPython's own tests of futures, tasks and streams with our types in asyncio's place."""
    python = command_of(tag)
    status, output = job.run([*python, "-c", "import test.test_asyncio"], cwd="/")
    if status != 0:
        return skipped(f"cpython-types/{tag}: this interpreter comes without its test package")
    total = Outcome()
    for loop in ("asyncio", "pyloop"):
        label = f"cpython-types/{tag} on {loop}"
        status, output = job.run([*python, "tests/cpython/run_tasks.py", "--loop", loop])
        outcome = read_totals(output, label) or failed(f"{label}: no totals")
        if outcome.failed:
            outcome.failures = [f"{label}: {name}" for name in re.findall(r"^FAIL (\S+)", output, re.MULTILINE)]
        if status != 0 and not outcome.failed:
            outcome.add(failed(f"{label} (status {status})"))
        total.add(outcome)
    return total


# Programs of others, and our own command line: long, and the extension does nothing there that it does not do in
# the other tests.
NOT_SANITIZED = [f"--ignore-glob=*/test_{name}.py" for name in ("plugins_*", "launcher", "bench_smoke", "conformance",
                                                               "parallel_application")]


def asan_smoke(job):
    """The Python tests with the sanitized extension, in an ordinary interpreter."""
    where = folder("asan")
    stage = where / "stage"
    status, _ = job.run(["meson", "install", "-C", where, "--no-rebuild", "--destdir", stage,
                         "--tags", "runtime,python-runtime"])
    if status != 0:
        return failed("asan/python: meson install")
    modules = [path.parent.parent for path in pathlib.Path(stage).rglob("_core*.so")]
    if len(modules) != 1:
        return failed("asan/python: meson installed no pyloop._core")
    env = {
        "LD_PRELOAD": asan_preload(),
        "PYTHONPATH": str(modules[0]),
        "PYTHONMALLOC": "malloc",  # so that the sanitizer sees Python's own blocks
        # Leaks are what the C suites and tests/python/test_leaks.py look for: the interpreter
        # itself does not free everything at exit.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYLOOP_SANITIZED": "1",  # for tests that measure memory or time
    }
    status, output = job.run([sys.executable, "-c", "import pyloop._core as m; print(m.__file__)"],
                             env=env, cwd="/")
    if status != 0 or str(stage) not in output:
        return failed("asan/python: the sanitized extension does not load")
    return run_pytest(job, [sys.executable], "asan/python", ["tests/python", *NOT_SANITIZED], env)


def stubtest(job):
    """The stubs say what the modules really have, and a typed program may use them."""
    status, _ = job.run([sys.executable, "-c", "import mypy.stubtest"])
    if status != 0:
        return skipped("types: mypy is not installed")
    config = ["--config-file", ROOT / "tools" / "types" / "mypy.ini"]
    outcome = job.check("types: stubtest", [
        sys.executable, "-m", "mypy.stubtest", "pyloop", "--concise", "--ignore-missing-stub",
        "--ignore-disjoint-bases", "--ignore-unused-allowlist", "--mypy-config-file", config[1],
        "--allowlist", ROOT / "tools" / "types" / "allowlist.txt"], cwd="/")
    total = Outcome()
    total.add(outcome)
    total.add(job.check("types: a typed program", [
        sys.executable, "-m", "mypy", "--strict", *config, ROOT / "tools" / "types" / "program.py"],
        cwd="/"))
    return total


def soak(job):
    """tests/soak, in its short version: PYLOOP_SOAK_SECONDS asks for a longer one."""
    return run_pytest(job, [venv_python(own_tag())], "soak", ["tests/soak"], {})
