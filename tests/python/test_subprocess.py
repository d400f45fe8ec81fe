"""subprocess_exec() and subprocess_shell()."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

import pyloop

TIMEOUT = 30


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self):
        self.calls = []
        self.data = {1: b"", 2: b""}
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.calls.append("made")

    def pipe_data_received(self, fd, data):
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(("pipe", fd))

    def process_exited(self):
        self.calls.append("exited")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def python(code):
    return sys.executable, "-c", code


def test_protocol(run):
    async def main():
        loop = asyncio.get_running_loop()
        code = "import sys; data = sys.stdin.read(); print(data); print('bad', file=sys.stderr); sys.exit(3)"
        transport, protocol = await loop.subprocess_exec(Recorder, *python(code))
        assert protocol.calls == ["made"] and transport.get_returncode() is None
        assert isinstance(transport.get_extra_info("subprocess"), subprocess.Popen)
        stdin = transport.get_pipe_transport(0)
        stdin.write(b"hello")
        stdin.close()
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None
        assert protocol.data == {1: b"hello\n", 2: b"bad\n"} and transport.get_returncode() == 3
        assert set(protocol.calls) == {"made", ("pipe", 0), ("pipe", 1), ("pipe", 2), "exited"}
        transport.close()

    run(main())


def test_shell_and_large_output(run):
    async def main():
        process = await asyncio.create_subprocess_shell("cat; echo end >&2", stdin=-1, stdout=-1, stderr=-1)
        data = os.urandom(3_000_000)
        out, err = await asyncio.wait_for(process.communicate(data), TIMEOUT)
        assert out == data and err == b"end\n" and process.returncode == 0

    run(main())


@pytest.mark.parametrize("method, number", [
    ("kill", signal.SIGKILL), ("terminate", signal.SIGTERM), ("send_signal", signal.SIGINT)])
def test_signals(run, method, number):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "100")
        getattr(process, method)(*([number] if method == "send_signal" else []))
        assert await asyncio.wait_for(process.wait(), TIMEOUT) == -number
        with pytest.raises(ProcessLookupError):
            process.kill()

    run(main())


def test_every_popen_argument(run, tmp_path):
    """What Popen takes arrives; what contradicts asyncio's pipes is refused as asyncio refuses it."""
    options = {
        "cwd": tmp_path, "env": {"ONLY": "this"}, "umask": 0o27, "start_new_session": True, "restore_signals": False,
        "close_fds": True, "pass_fds": (), "preexec_fn": None, "pipesize": 8192, "user": os.getuid(),
        "group": os.getgid(), "extra_groups": [os.getgid()] if os.getuid() == 0 else None, "executable": sys.executable,
        "startupinfo": None, "creationflags": 0, "process_group": None}

    async def main():
        loop = asyncio.get_running_loop()
        code = "import os; print(os.getcwd(), os.environ['ONLY'], oct(os.umask(0)), os.getsid(0) == os.getpid())"
        process = await asyncio.create_subprocess_exec("other-name", "-c", code, stdout=-1, **options)
        out, _ = await process.communicate()
        assert out.decode().split() == [str(tmp_path), "this", "0o27", "True"]
        for bad in ({"universal_newlines": True}, {"text": True}, {"encoding": "utf-8"}, {"errors": "strict"},
                    {"bufsize": 1}, {"shell": True}):
            with pytest.raises(ValueError):
                await loop.subprocess_exec(Recorder, "true", **bad)
        with pytest.raises(TypeError):
            await loop.subprocess_exec(Recorder, "true", no_such_argument=1)
        with pytest.raises(ValueError):
            await loop.subprocess_shell(Recorder, "true", shell=False)
        for missing in (tmp_path / "missing", tmp_path):
            with pytest.raises(OSError):
                await loop.subprocess_exec(Recorder, missing)

    run(main())


def test_process_group(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            *python("import os; print(os.getpgid(0) == os.getpid())"), stdout=-1, process_group=0)
        assert await process.communicate() == (b"True\n", None)

    run(main())


def test_preexec_fn_and_inherited_descriptor(run):
    async def main():
        read, write = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *python(f"import os; os.write({write}, os.environ.get('X', 'none').encode())"), pass_fds=[write],
            preexec_fn=lambda: os.environ.__setitem__("X", "set"))
        assert await process.wait() == 0
        os.close(write)
        assert os.read(read, 10) == b"set"
        os.close(read)

    run(main())


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_from_many_threads(backend, monkeypatch, has_pidfd):
    """No child watcher, no main thread: each loop waits for its own children."""
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    results = []

    async def main(number):
        codes = await asyncio.gather(*(one(number * 10 + index) for index in range(5)))
        results.append((number, codes))

    async def one(code):
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
        return await process.wait()

    def work(number):
        pyloop.run(asyncio.wait_for(main(number), TIMEOUT), backend=backend)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [(number, list(range(number * 10, number * 10 + 5))) for number in range(4)]


def test_child_that_somebody_else_reaped(run, caplog):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=-1)
        process.kill()
        os.waitpid(process.pid, 0)
        assert await asyncio.wait_for(process.wait(), TIMEOUT) == 255

    run(main())
    assert "exit status already read" in caplog.text


def test_cancelled_start_and_closed_transport(run):
    async def main():
        loop = asyncio.get_running_loop()
        for turns in range(4):
            task = asyncio.ensure_future(loop.subprocess_exec(Recorder, "sleep", "100"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            result, = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(result, BaseException):
                result[0].close()
                await asyncio.wait_for(result[1].lost, TIMEOUT)
        transport, protocol = await loop.subprocess_exec(Recorder, "sleep", "100")
        transport.close()  # kills it
        await asyncio.wait_for(protocol.lost, TIMEOUT)
        assert transport.get_returncode() == -signal.SIGKILL

    before = len(os.listdir("/proc/self/fd"))
    run(main())
    assert len(os.listdir("/proc/self/fd")) == before
