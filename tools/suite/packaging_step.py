"""Does what a user of the package gets work: source distribution, wheel, `pip install`?"""

import pathlib
import sys
import tarfile
import tempfile
import zipfile

from runner import PASSED, ROOT, Outcome, failed, skipped

IN_SDIST = ("pyproject.toml", "meson.build", "meson_options.txt", "README.md", "tools/fetch-llhttp",
            "src/README.md", "include/pyloop/task.h", "python/pyloop/__init__.py", "third_party/llhttp/llhttp.c",
            "third_party/llhttp/LICENSE")
IN_WHEEL = ("pyloop/__init__.py", "pyloop/run.py", "pyloop/demo.py", "pyloop/py.typed", "pyloop/_core.pyi",
            "pyloop/include/pyloop/python.h")

# What a new user does first; exits 0 only if the installed package really served it.
TRIAL = """
import asyncio, pyloop
async def main():
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\\n")
    assert await reader.read() == b"HELLO\\n"
    writer.close()
    server.close()
pyloop.run(main())
"""


def is_offline(output):
    return "Retrying (" in output or "Temporary failure in name resolution" in output


def check_archive(outcome, what, names, wanted):
    for name in wanted:
        if name in names:
            outcome.passed += 1
        else:
            outcome.add(failed(f"package: {name} is missing in the {what}"))


def run(job):
    total = Outcome()
    if not (ROOT / ".git").exists():
        return skipped("package: a source distribution is made from a git clone, and this is none")
    with tempfile.TemporaryDirectory(prefix="pyloop-package-") as temporary:
        where = pathlib.Path(temporary)
        status, _ = job.run([sys.executable, "-m", "build", "--sdist", "--no-isolation",
                             "--outdir", where, ROOT])
        archives = list(where.glob("data_bridge_pyloop-*.tar.gz"))
        if status != 0 or len(archives) != 1:
            return failed("package: no source distribution")
        with tarfile.open(archives[0]) as tar:
            names = {name.partition("/")[2] for name in tar.getnames()}
        check_archive(total, "source distribution", names, IN_SDIST)

        # As a user does it: an isolated build in a new environment, outside this clone.
        python = where / "venv" / "bin" / "python"
        status, _ = job.run([sys.executable, "-m", "venv", where / "venv"])
        if status != 0:
            return failed("package: no virtual environment")
        env = {"PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin"}
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        status, output = job.run([*pip, "wheel", "--no-deps", "-w", where / "wheels", archives[0]],
                                 env=env, cwd=where)
        if status != 0 and is_offline(output):
            total.add(skipped("package: no network for an isolated build"))
            return total
        wheels = list((where / "wheels").glob("*.whl"))
        if status != 0 or len(wheels) != 1:
            total.add(failed("package: pip cannot build the source distribution"))
            return total
        names = zipfile.ZipFile(wheels[0]).namelist()
        check_archive(total, "wheel", names, IN_WHEEL)
        stray = [n for n in names if n.endswith((".a", ".h", ".c", ".pc")) and not n.startswith("pyloop/include/")]
        if stray or sum(n.startswith("pyloop/_core.") and n.endswith(".so") for n in names) != 1:
            total.add(failed(f"package: the wheel has {stray or 'no extension module'}"))
        for what, command in (
            ("install", [*pip, "install", "--no-index", "--no-deps", wheels[0]]),
            ("trial", [python, "-c", TRIAL]),
            ("runner", [python, "-m", "pyloop.run", "--help"]),
        ):
            status, _ = job.run(command, env=env, cwd=where, timeout=300)
            total.add(PASSED if status == 0 else failed(f"package: {what}"))
    return total
