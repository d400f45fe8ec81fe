"""Other people's suites, with stock asyncio and with pyloop: what passes there must pass here.

Sources come from PyPI by name, or from Debian where the source distribution has no tests, and are
unpacked under .cache/downstream with an environment of their own. A suite runs once with asyncio and
once on each backend, from its own folder, with the installed package of the same version.
"""

import dataclasses
import glob
import hashlib
import os
import pathlib
import re
import shutil
import stat
import sys
import sysconfig
import tarfile
import tempfile
import xml.etree.ElementTree

from pythons import BACKENDS, backend_trouble, own_tag
from runner import LOGS, PASSED, ROOT, Outcome, failed, skipped

HOME = ROOT / ".cache" / "downstream"
REQUIREMENTS = ROOT / "tools" / "requirements-downstream.txt"
PLUGINS = ROOT / "tools" / "suite" / "plugins"
PYTHON = HOME / "venv" / "bin" / "python"
SERVER_USER = "nobody"  # PostgreSQL refuses to run as root


@dataclasses.dataclass(frozen=True)
class Suite:
    name: str
    paths: tuple[str, ...]
    options: tuple[str, ...] = ()
    debian: tuple[str, str] | None = None  # (release, source package) with the tests PyPI does not have
    source_path: str | None = None  # where the package lies in the sources; None: it is installed
    needs_postgres: bool = False
    env: tuple[tuple[str, str], ...] = ()


SUITES = (
    # Where localhost has no IPv6 address its fixtures leave sockets, which fail whichever test comes next.
    Suite("anyio", ("tests",), ("-n", "2", "-m", "not network", "-p", "no:unraisableexception")),
    # The source distribution has none of the tests that use a loop. Debian's newest source that has
    # them is tested as it is, from its own folder.
    # Four of its tests replace asyncio.BaseTransport.get_extra_info(), which transports in C have of their own.
    Suite("websockets", ("tests/asyncio", "tests/legacy"), ("--rootdir=.", "-n", "4", "--timeout=60", *(
        f"--deselect=tests/asyncio/test_connection.py::{side}ConnectionTests::test_{end}_address"
        for side in ("Client", "Server") for end in ("local", "remote"))),
          debian=("trixie", "python-websockets"), source_path="src"),
    # Its warnings as errors would also be those of newer packages than it was released with.
    # Two of its tests look for the class of asyncio's own loop.
    Suite("uvicorn", ("tests",), (
        "-n", "4", "--timeout=60", "--ignore=tests/benchmarks", "-o", "filterwarnings=",
        "--deselect=tests/test_compat.py::test_asyncio_run__default_loop_factory",
        "--deselect=tests/test_config.py::test_get_loop_factory[asyncio-_UnixSelectorEventLoop]")),
    Suite("asyncpg", ("tests",), ("--timeout=120", "--deselect=tests/test__sourcecode.py"),
          needs_postgres=True),
)


def fetch(job, suite):
    """Unpack the sources once. Returns (folder, version), or None if they cannot be had."""
    where = HOME / "src" / suite.name
    marker = where / ".version"
    if marker.exists():
        return where, marker.read_text()
    with tempfile.TemporaryDirectory() as scratch:
        if suite.debian:
            command = [ROOT / "tools" / "debian-source", *suite.debian, scratch]
        else:
            command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps",
                       "--no-binary", suite.name, "--dest", scratch, suite.name]
        status, _ = job.run(command, timeout=300)
        archives = list(pathlib.Path(scratch).glob("*.tar.*"))
        if status != 0 or len(archives) != 1:
            return None
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        with tarfile.open(archives[0]) as archive:
            archive.extractall(where, filter="data")
        version = re.search(r"[-_]([0-9][0-9.a-z]*?)(\.orig)?\.tar", archives[0].name).group(1)
    # One folder down, as every source archive has it.
    (inner,) = where.iterdir()
    for path in inner.iterdir():
        path.rename(where / path.name)
    inner.rmdir()
    if suite.source_path is None:  # what is installed shall be tested, not this copy without its C parts
        shutil.rmtree(where / suite.name, ignore_errors=True)
        shutil.rmtree(where / "src", ignore_errors=True)
    if not (where / suite.paths[0]).is_dir():
        job.say(f"{suite.name} {version} comes without {suite.paths[0]}")
        return None
    marker.write_text(version)
    return where, version


def set_up(job):
    """The sources of the four, an environment with their versions and this pyloop."""
    wanted = ["-r", REQUIREMENTS]
    for suite in SUITES:
        fetched = fetch(job, suite)
        if fetched is None:
            return skipped(f"downstream: no sources of {suite.name}; is there a network?")
        wanted.append(suite.name if suite.source_path else f"{suite.name}=={fetched[1]}")
    key = hashlib.sha256("\n".join([sys.version, REQUIREMENTS.read_text(), *map(str, wanted[2:])]).encode())
    stamp = HOME / "venv" / ".stamp"
    if not stamp.exists() or stamp.read_text() != key.hexdigest():
        for command in (
            [sys.executable, "-m", "venv", "--clear", HOME / "venv"],
            [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--prefer-binary", *wanted],
        ):
            if job.run(command)[0] != 0:
                return failed("downstream: the environment of the suites")
        stamp.write_text(key.hexdigest())
    link = next((HOME / "venv").glob("lib/python*/site-packages")) / "pyloop"
    link.unlink(missing_ok=True)
    link.symlink_to(pathlib.Path(sysconfig.get_path("platlib")) / "pyloop")
    return PASSED


def postgres_programs(where):
    """PostgreSQL's programs for asyncpg's tests, which start and stop servers of their own in temporary
    folders on free ports. As root every one of them first becomes an unprivileged user."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]))
    if not folders or os.getuid() != 0:
        return folders[-1] if folders else None
    for program in os.listdir(folders[-1]):
        script = where / program
        script.write_text(f"""#!/bin/sh
for word in "$@"; do
    [ -f "$word/PG_VERSION" ] || [ "$word" = "$PWD" ] && chown -R {SERVER_USER} "$word"
done
exec setpriv --reuid={SERVER_USER} --clear-groups {folders[-1]}/{program} "$@"
""")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return where


def statuses(path):
    """{test: passed, failed or skipped} from pytest's XML; a subtest's or teardown's failure counts."""
    rank = {"skipped": 0, "passed": 1, "failed": 2}
    found = {}
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        status = "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            status = "failed"
        elif case.find("skipped") is not None:
            status = "skipped"
        found[name] = max(found.get(name, "skipped"), status, key=rank.get)
    return found


def run_suite(job, suite, loop, scratch):
    """One run with loop "asyncio" or a backend. Returns its statuses, or None if pytest broke off."""
    where = HOME / "src" / suite.name
    xml_path = LOGS / f"downstream-{suite.name}-{loop}.xml"
    xml_path.unlink(missing_ok=True)
    path = [str(where / suite.source_path)] if suite.source_path else []
    # The servers' user must reach what tests put into temporary folders.
    env = {"TMPDIR": str(scratch), **dict(suite.env)}
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={xml_path}",
               "-o", "junit_family=xunit1", *suite.options]
    if loop != "asyncio":
        command += ["-p", "pyloop_everywhere"]
        path.append(str(PLUGINS))
        env["PYLOOP_BACKEND"] = loop
    if suite.needs_postgres:
        env["PGINSTALLATION"] = str(postgres_programs(scratch / "bin"))
    if job.options.keyword:
        command += ["-k", job.options.keyword]
    env["PYTHONPATH"] = os.pathsep.join(path)
    job.run([*command, *(job.options.pytest or suite.paths)], env=env, cwd=where, timeout=900)
    return statuses(xml_path) if xml_path.exists() else None


def compare(suite, loop, ours, stock):
    """Counts the tests that pass with asyncio; the others are only named."""
    total = Outcome()
    for name, expected in stock.items():
        status = ours.get(name, "not run")
        if expected == "passed":
            total.add(PASSED if status == "passed" else
                      failed(f"{suite.name} on {loop}: {name} ({status}, passes with asyncio)"))
        elif expected == "failed":
            total.add(skipped(f"{suite.name}: {name}: fails with stock asyncio, {status} on {loop}"))
    return total


def run(job, suite):
    total = Outcome()
    if suite.needs_postgres and not glob.glob("/usr/lib/postgresql/*/bin/postgres"):
        return skipped(f"{suite.name}: no PostgreSQL (apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="downstream-") as scratch:
        os.chmod(scratch, 0o1777)
        (pathlib.Path(scratch) / "bin").mkdir()
        (pathlib.Path(scratch) / "bin").chmod(0o755)
        stock = run_suite(job, suite, "asyncio", pathlib.Path(scratch))
        if not stock or "passed" not in stock.values():
            return failed(f"{suite.name}: nothing passes with stock asyncio")
        for backend in BACKENDS:
            trouble = backend_trouble(job, own_tag(), backend)
            if trouble == "":
                total.add(failed(f"{suite.name}: no loop on {backend}"))
                continue
            if trouble is not None:
                total.add(skipped(f"{suite.name} on {backend}: {trouble}"))
                continue
            ours = run_suite(job, suite, backend, pathlib.Path(scratch))
            if ours is None:
                total.add(failed(f"{suite.name} on {backend}: pytest ended early"))
            else:
                total.add(compare(suite, backend, ours, stock))
    return total
