"""`python -m pyloop SCRIPT|MODULE …` runs programs unchanged on pyloop; `python -m pyloop doctor`."""

import json
import sys

import pytest
from process_kit import environment, run_python, serving

import pyloop

PROGRAM = """
import asyncio
import sys

async def main():
    return type(asyncio.get_running_loop()).__module__

if __name__ == "__main__":
    print(asyncio.run(main()), type(asyncio.new_event_loop()).__module__, *sys.argv[1:])
    with asyncio.Runner() as runner:
        print(runner.run(main()), __name__, sys.argv[0])
    sys.exit(7)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text("from . import program\nprogram.run()\n")
    (tmp_path / "package" / "program.py").write_text(
        "import asyncio\nasync def main(): print(asyncio.get_running_loop().backend)\n"
        "def run(): asyncio.run(main())\n")
    return tmp_path


@pytest.mark.parametrize("target", [["program.py"], ["./program.py"], ["program"], ["-m", "program"]])
def test_scripts_and_modules(folder, target):
    done = run_python(folder, "-m", "pyloop", *target, "one", "--two")
    first, second = done.stdout.splitlines()
    assert first == "pyloop._loop pyloop._loop one --two"
    assert second.startswith("pyloop._loop __main__ ") and second.endswith("program.py")
    assert done.returncode == 7 and done.stderr == ""


def test_package(folder, backend):
    done = run_python(folder, "-m", "pyloop", "-m", "package", env=environment(PYLOOP_BACKEND=backend))
    assert done.stdout == f"{backend}\n", done.stderr


def test_a_script_imports_from_its_own_folder(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "neighbour.py").write_text("value = 5\n")
    (folder / "sub" / "script.py").write_text("import neighbour; print(neighbour.value)\n")
    assert run_python(folder, "-m", "pyloop", "sub/script.py").stdout == "5\n"


@pytest.mark.parametrize("arguments, status, message", [
    ([], 2, "usage: python -m pyloop"),
    (["-m"], 2, "usage: python -m pyloop"),
    (["--nonsense"], 2, "usage: python -m pyloop"),
    (["missing.py"], 2, "pyloop: no such file: missing.py"),
    (["missing_module"], 2, "pyloop: cannot run 'missing_module': No module named"),
    (["-m", "package.missing"], 2, "pyloop: cannot run 'package.missing': No module named"),
    (["-m", "email"], 2, "pyloop: cannot run 'email': "),
])
def test_wrong_command_lines(folder, arguments, status, message):
    done = run_python(folder, "-m", "pyloop", *arguments)
    assert done.returncode == status and done.stderr.startswith(message), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_errors_of_the_program_are_its_own(folder):
    (folder / "broken.py").write_text("import no_such_thing_at_all\n")
    for target in (["broken.py"], ["-m", "broken"]):
        done = run_python(folder, "-m", "pyloop", *target)
        assert done.returncode == 1 and "ModuleNotFoundError: No module named 'no_such_thing_at_all'" in done.stderr


def test_help(folder):
    done = run_python(folder, "-m", "pyloop", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage:") and done.stderr == ""


def test_uvicorn_unchanged(folder):
    """Since 0.36 it names its loop itself: under the launcher that is pyloop's."""
    pytest.importorskip("uvicorn")
    (folder / "service.py").write_text(
        "import asyncio\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    text = type(asyncio.get_running_loop()).__module__\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': text.encode()})\n")
    with serving(folder, "-m", "pyloop", "-m", "uvicorn", "service:app", "--fd", "{fd}") as get:
        assert get() == "pyloop._loop"


def test_doctor(tmp_path, backend):
    done = run_python(tmp_path, "-m", "pyloop", "doctor", env=environment(PYLOOP_BACKEND=backend))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"backend here: {backend}"
    for title in ("versions", "backends", "limits", "self-test", "advice"):
        assert title in lines
    assert f"  PYLOOP_BACKEND={backend} forces the backend." in lines


def test_doctor_json(tmp_path, backend):
    done = run_python(tmp_path, "-m", "pyloop", "doctor", "--json", env=environment(PYLOOP_BACKEND=backend))
    report = json.loads(done.stdout)
    assert report["backend"] == backend and report["backends"][backend] == {"usable": True, "cause": None}
    assert report["backends"]["kqueue"]["usable"] is (sys.platform != "linux")
    assert report["versions"]["pyloop"] == pyloop.__version__
    assert report["self_test"]["passed"] is True and report["self_test"]["echo_round_trips"] > 0
    assert report["limits"]["fd_soft"] > 0 and isinstance(report["advice"], list)


def test_doctor_names_what_is_missing(tmp_path):
    """A low limit of descriptors, and a backend that does not exist."""
    script = ("import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));"
              "sys.argv = ['pyloop', 'doctor', '--json']; runpy.run_module('pyloop', run_name='__main__')")
    report = json.loads(run_python(tmp_path, "-c", script).stdout)
    assert "Only 64 file descriptors: raise `ulimit -n` for many connections." in report["advice"]
    done = run_python(tmp_path, "-m", "pyloop", "doctor", env=environment(PYLOOP_BACKEND="nonsense"))
    assert done.returncode == 1 and done.stdout.startswith("backend here: none\n") and done.stderr == ""
    assert "unknown backend 'nonsense'" in done.stdout
    assert "  PYLOOP_BACKEND=nonsense forces the backend.\n" in done.stdout
    done = run_python(tmp_path, "-m", "pyloop", "doctor", "--yaml")
    assert done.returncode == 2 and done.stderr.startswith("usage:")


@pytest.mark.parametrize("name", ["sim", "nonsense"])
def test_backends_that_are_refused(name):
    with pytest.raises(RuntimeError, match=f"event loop backend '{name}' is not available: "):
        pyloop.Loop(backend=name)
