"""The C side: one meson build folder per variant, and running the suites that meson knows.

The tests are run from here rather than by `meson test`, because every Criterion test counts as one
and because variants of a build run side by side.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

from runner import LOGS, PASSED, ROOT, TOTALS, Outcome, failed, skipped

# name: (compiler, meson options, factor on the time limits of tests)
VARIANTS = {
    "gcc": ("gcc", ["-Dpython=true", "-Dwerror=true"], 1),
    "clang": ("clang", ["-Dpython=true", "-Dwerror=true"], 1),
    "asan": ("gcc", ["-Dpython=true", "-Doptimization=1", "-Db_sanitize=address,undefined"], 4),
    "tsan": ("gcc", ["-Dpython=false", "-Doptimization=1", "-Db_sanitize=thread"], 10),
    "tsan-tiny": ("gcc", ["-Dpython=false", "-Doptimization=1", "-Db_sanitize=thread", "-Dtiny_limits=true"], 10),
    "tiny": ("gcc", ["-Dpython=false", "-Dtiny_limits=true"], 2),
    "kqueue": ("gcc", ["-Dpython=false", "-Dkqueue_emulation=true"], 2),
}

# Of these variants only the programs of some suites are compiled.
BUILT_SUITES = {"tsan": ["stress"], "tsan-tiny": ["stress"]}

SANITIZER_ENV = {
    "asan": {
        "ASAN_OPTIONS": "abort_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "LSAN_OPTIONS": f"suppressions={ROOT}/tools/sanitizers/lsan.supp:print_suppressions=0",
    },
    "tsan": {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"},
}
SANITIZER_ENV["tsan-tiny"] = SANITIZER_ENV["tsan"]


# Criterion does not look at the exit status of a test that has already reported: a leak is found only here.
SANITIZER_WORDS = re.compile(r"^.*(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:).*$",
                             re.MULTILINE)


def folder(variant):
    return ROOT / "build" / ("test-" + variant)


def build(job, variant):
    """Configure (once) and compile a variant; one check, so that a warning counts as a failure."""
    compiler, options, _ = VARIANTS[variant]
    if shutil.which(compiler) is None:
        return skipped(f"build/{variant}: no {compiler} on this machine")
    where = folder(variant)
    # A folder that another set of options or another interpreter made is made anew.
    made_by = where / "made-by"
    wanted = " ".join([compiler, sys.prefix, sys.version, *options])
    if not made_by.exists() or made_by.read_text() != wanted:
        shutil.rmtree(where, ignore_errors=True)
        command = ["meson", "setup", where, ROOT, "--buildtype=debugoptimized", "-Dtests=true", *options]
        status, _ = job.run(command, env={"CC": compiler})
        if status != 0:
            return failed(f"build/{variant}: meson setup")
        made_by.write_text(wanted)
    # Introspection does not know what was added to a meson.build since; ninja sees that.
    status, _ = job.run(["ninja", "-C", where, "build.ninja"])
    if status != 0:
        return failed(f"build/{variant}: meson")
    targets = [os.path.relpath(test["cmd"][0], where) for test in tests_of(job, variant, BUILT_SUITES.get(variant, []))]
    status, _ = job.run(["ninja", "-C", where, f"-j{job.options.compile_jobs}", *targets])
    return PASSED if status == 0 else failed(f"build/{variant}: compile")


def tests_of(job, variant, suites):
    """What meson knows: the tests of the suites, as dictionaries of its introspection."""
    status, output = job.run(["meson", "introspect", "--tests", folder(variant)])
    if status != 0:
        raise RuntimeError("meson introspect failed")
    tests = json.loads(output[output.index("["):])
    return [test for test in tests
            if {s.rpartition(":")[2] for s in test["suite"]} & set(suites)]


def is_criterion(program):
    return b"libcriterion.so" in pathlib.Path(program).read_bytes()


def read_criterion(path, name, output):
    """Counts from Criterion's XML, or None if the program died before it wrote it."""
    reasons = dict(re.findall(r"^\[SKIP\] \w+::(\w+): (.*)$", output, re.MULTILINE))
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
    except (OSError, xml.etree.ElementTree.ParseError):
        return None
    outcome = Outcome()
    for case in root.iter("testcase"):
        label = f"{name}: {case.get('name')}"
        if case.get("status") == "SKIPPED":
            outcome.add(skipped(f"{label}: {reasons.get(case.get('name'), 'no reason given')}"))
        elif case.get("status") == "PASSED":
            outcome.passed += 1
        else:
            outcome.add(failed(label))
    return outcome


def read_totals(output, name):
    """The counts of a program whose last line is `N passed, N failed, N skipped`, else None."""
    match = TOTALS.fullmatch((output.strip().splitlines() or [""])[-1])
    if match is None:
        return None
    outcome = Outcome(*map(int, match.groups()))
    if outcome.failed:
        outcome.failures.append(name)
    if outcome.skipped:
        outcome.reasons.append(f"{name}: {outcome.skipped} skipped, reasons in its log")
    return outcome


def run_test(job, variant, test):
    """Run one program. Criterion's tests count singly, others as one, or as their last line says."""
    name = f"{variant}: {test['name']}"
    command = list(test["cmd"])
    env = {**SANITIZER_ENV.get(variant, {}), **test["env"]}
    # Sanitizers of this age do not know the address layout of new kernels.
    if variant in SANITIZER_ENV and shutil.which("setarch"):
        command = ["setarch", "-R", *command]
    xml_path = None
    if is_criterion(test["cmd"][0]):
        xml_path = LOGS / f"{variant}-{test['name'].replace('/', '-')}.xml"
        xml_path.unlink(missing_ok=True)
        command += [f"--output=xml:{xml_path}", "--verbose"]
    timeout = max(1, test["timeout"]) * VARIANTS[variant][2]
    status, output = job.run(command, timeout=timeout, env=env, cwd=test["workdir"] or ROOT)
    outcome = read_criterion(xml_path, name, output) if xml_path else None
    if outcome is None:
        if status == 77:
            lines = output.strip().splitlines()
            return skipped(f"{name}: {lines[-1] if lines else 'status 77'}")
        outcome = read_totals(output, name) or Outcome(passed=int(status == 0))
    complaint = SANITIZER_WORDS.search(output) if variant in SANITIZER_ENV else None
    if complaint and not outcome.failed:
        outcome.add(failed(f"{name}: {complaint.group(0).strip()}"))
    if status != 0 and not outcome.failed:
        outcome.add(failed(f"{name} (status {status})"))
    return outcome


def run_suites(job, variant, suites):
    """Run the programs of the suites one after the other (other steps run beside this one)."""
    tests = tests_of(job, variant, suites)
    if not tests:
        return skipped(f"{variant}: no tests in suite {' '.join(suites)}")
    total = Outcome()
    for test in tests:
        if job.options.keyword and job.options.keyword not in test["name"]:
            continue
        total.add(run_test(job, variant, test))
    return total


def asan_preload():
    """The sanitizer's run-time library, for a Python that was built without it."""
    done = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True,
                          check=True)
    return os.path.realpath(done.stdout.strip())
