"""The one-line switches of the README for programs, test runners and shells."""

import asyncio
import sys

import pytest
from process_kit import environment, run_python

import pyloop


async def which():
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run() has loop_factory from 3.12 on")
def test_asyncio_run():
    assert asyncio.run(which(), loop_factory=pyloop.new_event_loop) is pyloop.Loop


def test_runner():
    with asyncio.Runner(loop_factory=pyloop.new_event_loop) as runner:
        assert runner.run(which()) is pyloop.Loop
        assert runner.run(which()) is pyloop.Loop
        loop = runner.get_loop()
    assert loop.is_closed()


def test_pyloop_run():
    assert pyloop.run(which()) is pyloop.Loop
    assert pyloop.run(which(), loop_factory=asyncio.SelectorEventLoop) is asyncio.SelectorEventLoop
    with pytest.raises(TypeError, match="either loop_factory or options"):
        pyloop.run(None, loop_factory=pyloop.Loop, backend="epoll")


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="there are no policies")
def test_install(tmp_path):
    """In a process of its own: the main thread's loop, other threads' and asyncio.run()'s are all ours."""
    (tmp_path / "program.py").write_text(
        "import asyncio, threading, pyloop\n"
        "pyloop.install()\n"
        "async def which(): return type(asyncio.get_running_loop())\n"
        "print(asyncio.run(which()))\n"
        "print(type(asyncio.new_event_loop()))\n"
        "thread = threading.Thread(target=lambda: print(asyncio.run(which())))\n"
        "thread.start(); thread.join()\n")
    done = run_python(tmp_path, "program.py")
    assert done.stdout.splitlines() == ["<class 'pyloop._loop.Loop'>"] * 3, done.stderr


def test_anyio():
    anyio = pytest.importorskip("anyio")

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        assert await anyio.to_thread.run_sync(lambda: 5) == 5
        return await which()

    options = {"loop_factory": pyloop.new_event_loop}
    assert anyio.run(main, backend_options=options) is pyloop.Loop


TESTS_PYTEST_ASYNCIO = """
import asyncio
import pytest
import pytest_asyncio
import pyloop

@pytest_asyncio.fixture
async def resource():
    yield type(asyncio.get_running_loop())

@pytest.mark.asyncio
async def test_loop(resource):
    assert resource is pyloop.Loop
    assert type(asyncio.get_running_loop()) is pyloop.Loop
"""

TESTS_ANYIO = """
import asyncio
import pytest
import pyloop

@pytest.fixture(scope="module")
async def resource(anyio_backend):
    return type(asyncio.get_running_loop())

@pytest.mark.anyio
async def test_loop(resource):
    assert resource is pyloop.Loop
    assert type(asyncio.get_running_loop()) is pyloop.Loop
"""


@pytest.mark.parametrize("package, version, text, options", [
    ("pytest_asyncio", "1.4", TESTS_PYTEST_ASYNCIO, []), ("anyio", "4", TESTS_ANYIO, ["-p", "no:asyncio"])])
def test_pytest_plugin(tmp_path, package, version, text, options):
    from importlib import metadata
    pytest.importorskip(package)
    if tuple(map(int, metadata.version(package).split(".")[:2])) < tuple(map(int, version.split("."))):
        pytest.skip(f"{package} {version} is needed")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(text)
    done = run_python(tmp_path, "-m", "pytest", "-q", "-p", "pyloop.pytest_plugin", *options, "test_it.py")
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
    done = run_python(tmp_path, "-m", "pytest", "-q", *options, "test_it.py")
    assert done.returncode == 1, "without the plugin the loop is not ours"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="unittest has loop_factory from 3.13 on")
def test_unittest():
    import unittest

    class T(unittest.IsolatedAsyncioTestCase):
        loop_factory = staticmethod(pyloop.new_event_loop)

        async def asyncSetUp(self):
            self.kind = await which()

        async def test_it(self):
            self.assertIs(self.kind, pyloop.Loop)
            self.assertIs(await which(), pyloop.Loop)

    result = unittest.TestResult()
    T("test_it").run(result)
    assert result.testsRun == 1 and result.wasSuccessful(), result.errors + result.failures


def test_ipython(tmp_path):
    """Top-level await in a real shell; a task of one cell lives on in the next."""
    pytest.importorskip("IPython")
    script = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance(loop_runner='pyloop.ipython.runner')\n"
        "for cell in ('import asyncio',\n"
        "             'task = asyncio.create_task(asyncio.sleep(0, 7)); await asyncio.sleep(0)',\n"
        "             'print(type(asyncio.get_running_loop()), await task)',\n"
        "             'await asyncio.sleep(0); 1/0', 'print(await asyncio.sleep(0, \"goes on\"))'):\n"
        "    shell.run_cell(cell)\n")
    done = run_python(tmp_path, "-c", script, env=environment(IPYTHONDIR=str(tmp_path)))
    assert "<class 'pyloop._loop.Loop'> 7" in done.stdout, done.stdout + done.stderr
    assert "ZeroDivisionError" in done.stdout and "goes on" in done.stdout
    assert "Warning" not in done.stderr and done.returncode == 0, done.stderr
