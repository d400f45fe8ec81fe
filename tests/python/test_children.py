"""Watching child processes: the end is reported once, and a pid is never used after it was given back."""

import asyncio
import errno
import os
import signal
import threading

import pytest

TIMEOUT = 30


def no_pidfd(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.fixture(params=["pidfd", "thread"])
def watched_by(request, monkeypatch):
    if request.param == "thread":
        monkeypatch.setattr(os, "pidfd_open", no_pidfd)
    return request.param


def spawn():
    """A child that ends only by a signal."""
    return asyncio.create_subprocess_exec("sleep", "1000")


def test_returncodes(run, watched_by):
    async def main():
        codes = []
        for command in ("exit 0", "exit 7", "kill -TERM $$"):
            process = await asyncio.create_subprocess_shell(command)
            codes.append(await asyncio.wait_for(process.wait(), TIMEOUT))
        assert codes == [0, 7, -signal.SIGTERM]

    run(main())


def test_a_reaped_pid_gets_no_signal(run, watched_by, monkeypatch):
    """CPython's gh-127049: between reaping and publishing, the number may already be somebody else's."""
    reaped, stale = set(), []
    waitpid, kill = os.waitpid, os.kill

    def note_reaped(pid, options):
        answer = waitpid(pid, options)
        reaped.add(answer[0])
        return answer

    def check_kill(pid, number):
        if pid in reaped:
            stale.append(pid)
        else:
            kill(pid, number)

    async def main():
        process = await spawn()
        process.kill()
        async with asyncio.timeout(TIMEOUT):
            while process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await asyncio.sleep(0)
        assert process.pid in reaped
        assert await process.wait() == -signal.SIGKILL

    monkeypatch.setattr(os, "waitpid", note_reaped)
    monkeypatch.setattr(os, "kill", check_kill)
    run(main())
    assert stale == []


def test_child_reaped_by_somebody_else(run, watched_by, caplog):
    async def main():
        process = await spawn()
        process.kill()
        os.waitpid(process.pid, 0)
        assert await asyncio.wait_for(process.wait(), TIMEOUT) == 255

    run(main())
    assert "exit status already read" in caplog.text


def test_loop_closed_before_the_child_ends(new_loop, monkeypatch, caplog):
    """The thread that waits has nobody to tell; it leaves no zombie."""
    monkeypatch.setattr(os, "pidfd_open", no_pidfd)
    loop = new_loop()

    async def main():
        return await spawn()

    process = loop.run_until_complete(main())
    (waiter,) = [t for t in threading.enumerate() if t.name == f"pyloop-waitpid-{process.pid}"]
    loop.close()
    os.kill(process.pid, signal.SIGKILL)
    waiter.join(TIMEOUT)
    with pytest.raises(ChildProcessError):
        os.waitpid(process.pid, 0)
    assert "is closed" in caplog.text
    process._transport.close()


def test_status_of_a_child_that_popen_has_polled(run, watched_by, caplog):
    async def main():
        process = await spawn()
        os.kill(process.pid, signal.SIGKILL)
        # Popen's own wait, while the loop cannot look.
        assert process._transport.get_extra_info("subprocess").wait(TIMEOUT) == -signal.SIGKILL
        process.terminate()  # nobody's pid any more
        assert await asyncio.wait_for(process.wait(), TIMEOUT) == -signal.SIGKILL

    run(main())
    assert not caplog.records
