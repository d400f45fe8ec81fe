"""getaddrinfo() and getnameinfo(): literals without a thread, the rest cancellable in one."""

import asyncio
import socket
import threading

import pytest

TIMEOUT = 20


@pytest.fixture
def no_executor(loop, monkeypatch):
    def refuse(*args):
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr(loop, "run_in_executor", refuse)
    return loop


@pytest.mark.parametrize("host, port", [
    ("127.0.0.1", 80), ("127.0.0.1", "80"), ("::1", 80), ("fe80::1%lo", 80), ("fe80::1%1", None),
    ("::ffff:10.1.2.3", 0), (None, 80), (b"10.0.0.1", b"53")])
def test_literals_need_no_thread(no_executor, host, port):
    loop = no_executor
    found = loop.run_until_complete(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    assert found == socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def test_scope_ids(no_executor):
    loop = no_executor
    number = socket.if_nametoindex("lo")
    for host in ("fe80::1%lo", f"fe80::1%{number}"):
        (_, _, _, _, address), = loop.run_until_complete(loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM))
        assert address == ("fe80::1", 80, 0, number)


@pytest.mark.parametrize("host, port", [("name.invalid", 80), ("host1", 80), ("127.0.0.1", "http"), ("", 80)])
def test_the_rest_goes_to_a_thread(loop, monkeypatch, host, port):
    threads = []

    def look_up(*args):
        if threading.current_thread() is not threading.main_thread():
            threads.append(args)
            return ["found"]
        raise socket.gaierror(socket.EAI_NONAME, "not a literal")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert loop.run_until_complete(loop.getaddrinfo(host, port, proto=6)) == ["found"]
    assert threads == [(host, port, 0, 0, 6, 0)]
    loop.run_until_complete(loop.shutdown_default_executor())


def test_a_look_up_is_cancelled_at_once(loop, monkeypatch):
    """The thread goes on until it has its answer; nobody waits for it."""
    release, entered = threading.Event(), threading.Event()

    def look_up(*args):
        entered.set()
        assert release.wait(TIMEOUT)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def main():
        waiting = asyncio.ensure_future(loop.getaddrinfo("name.invalid", 80))
        connecting = asyncio.ensure_future(loop.create_connection(asyncio.Protocol, "name.invalid", 80))
        await asyncio.sleep(0)
        entered.wait(TIMEOUT)
        for task in (waiting, connecting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not release.is_set()
        release.set()

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_getnameinfo(no_executor):
    loop = no_executor
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    address = ("fe80::1", 80, 0, socket.if_nametoindex("lo"))
    for sockaddr in (("127.0.0.1", 80), ("::1", 443, 0, 0), address):
        assert loop.run_until_complete(loop.getnameinfo(sockaddr, flags)) == socket.getnameinfo(sockaddr, flags)
    with pytest.raises(TypeError):
        loop.run_until_complete(loop.getnameinfo("127.0.0.1", flags))
    with pytest.raises(AssertionError, match="a thread was asked for"):
        loop.run_until_complete(loop.getnameinfo(("127.0.0.1", 80)))
