"""The datagram transport in detail: the same on asyncio's loop and on ours, but for batching."""

import asyncio
import contextvars
import gc
import socket
import sys
import warnings

import pytest

TIMEOUT = 20
LOCAL = ("127.0.0.1", 0)


@pytest.fixture(params=["asyncio", "pyloop"])
def either(request, run):
    """run() of asyncio's own loop as well: what passes there is what a transport has to do."""
    if request.param == "pyloop":
        return lambda main: run(asyncio.wait_for(main, TIMEOUT))
    return lambda main: asyncio.run(asyncio.wait_for(main, TIMEOUT))


class Recorder(asyncio.DatagramProtocol):
    def __init__(self, **calls):
        self.calls = calls
        self.got, self.errors, self.flow = [], [], []
        self.lost = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self._note("made")

    def datagram_received(self, data, addr):
        self.got.append((data, addr))
        self._note("datagram", data, addr)

    def error_received(self, exc):
        self.errors.append(exc)
        self._note("error", exc)

    def pause_writing(self):
        self.flow.append("pause")

    def resume_writing(self):
        self.flow.append("resume")

    def connection_lost(self, exc):
        self.lost.set_result(exc)
        self._note("lost")

    def _note(self, name, *args):
        self.changed.set()
        if name in self.calls:
            self.calls[name](self, *args)

    async def until(self, condition):
        while not condition():
            self.changed.clear()
            await self.changed.wait()


async def open_end(*args, protocol=None, **kwargs):
    loop = asyncio.get_running_loop()
    protocol = protocol or Recorder()
    return await loop.create_datagram_endpoint(lambda: protocol, *args, **kwargs)


async def close(*protocols):
    for protocol in protocols:
        protocol.transport.close()
        await protocol.lost


def name_of(transport):
    return transport.get_extra_info("sockname")


def plain_socket(family=socket.AF_INET, address=LOCAL):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.setblocking(False)
    return sock


# Batches.

def test_the_datagrams_of_a_turn_leave_together(run):
    async def main():
        with plain_socket() as receiver:
            a, protocol = await open_end(LOCAL)
            for number in range(100):
                a.sendto(b"%d" % number, receiver.getsockname())
            with pytest.raises(BlockingIOError):
                receiver.recv(10)
            await asyncio.sleep(0)
            assert [receiver.recv(10) for _ in range(100)] == [b"%d" % n for n in range(100)]
            await close(protocol)

    run(main())


def test_one_turn_delivers_a_bounded_number(run):
    async def main():
        loop = asyncio.get_running_loop()
        with plain_socket() as sender:
            turn = 0

            def next_turn():
                nonlocal turn
                turn += 1
                if len(protocol.got) < 100:
                    loop.call_soon(next_turn)

            turns = []
            protocol = Recorder(datagram=lambda *_: turns.append(turn))
            a, _ = await open_end(LOCAL, protocol=protocol)
            for number in range(100):
                sender.sendto(b"%d" % number, name_of(a))
            next_turn()
            await protocol.until(lambda: len(protocol.got) == 100)
            assert [data for data, _ in protocol.got] == [b"%d" % n for n in range(100)]
            counts = [turns.count(number) for number in set(turns)]
            assert max(counts) <= 32
            await close(protocol)

    run(main())


def test_outside_of_a_turn_it_is_sent_at_once(loop):
    with plain_socket() as receiver:
        protocol = None

        async def start():
            nonlocal protocol
            protocol = Recorder()
            await open_end(LOCAL, protocol=protocol)

        loop.run_until_complete(start())
        protocol.transport.sendto(b"x", receiver.getsockname())
        assert receiver.recv(10) == b"x"
        loop.run_until_complete(close(protocol))


# Sending.

def test_a_bytearray_is_copied(either):
    async def main():
        with plain_socket() as receiver:
            a, protocol = await open_end(LOCAL)
            data = bytearray(b"before")
            a.sendto(data, receiver.getsockname())
            a.sendto(memoryview(data)[1:3], receiver.getsockname())
            data[:] = b"after!"
            await asyncio.sleep(0)
            assert [receiver.recv(10), receiver.recv(10)] == [b"before", b"ef"]
            await close(protocol)

    either(main())


def test_arguments_by_name(either):
    async def main():
        with plain_socket() as receiver:
            a, protocol = await open_end(LOCAL)
            a.sendto(data=b"x", addr=receiver.getsockname())
            a.sendto(b"y", addr=receiver.getsockname())
            await asyncio.sleep(0)
            assert [receiver.recv(10), receiver.recv(10)] == [b"x", b"y"]
            for args, kwargs in [((), {}), ((b"x",), {"data": b"x"}), ((b"x", None, 1), {}),
                                 ((b"x",), {"address": None})]:
                with pytest.raises(TypeError):
                    a.sendto(*args, **kwargs)
            assert not a.is_closing()
            await close(protocol)

    either(main())


def test_names_are_resolved(either):
    async def main():
        with plain_socket() as receiver:
            a, protocol = await open_end(LOCAL)
            a.sendto(b"one", ("localhost", receiver.getsockname()[1]))
            a.sendto(b"two", ("", receiver.getsockname()[1]))
            a.sendto(b"three", receiver.getsockname())
            await asyncio.sleep(0)
            assert [receiver.recv(10) for _ in range(3)] == [b"one", b"two", b"three"]
            a.sendto(b"x", ("no.such.host.invalid", 9))
            await protocol.until(lambda: protocol.errors)
            assert isinstance(protocol.errors[0], socket.gaierror)
            assert not a.is_closing()
            await close(protocol)

    either(main())


@pytest.mark.parametrize("address", [
    None, 5, "127.0.0.1", (), ("127.0.0.1",), ("127.0.0.1", "9"), ("127.0.0.1", 65536), ("127.0.0.1", -1),
    ("127.0.0.1", 1.5), ("127.0.0.1\0", 9), (5, 9), ("127.0.0.1", 9, 0), [], ["127.0.0.1", 9],
])
def test_a_bad_address_is_fatal(either, address):
    async def main():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        a, protocol = await open_end(LOCAL)
        a.sendto(b"x", address)
        assert a.is_closing()
        exc = await protocol.lost
        assert isinstance(exc, (TypeError, OverflowError, ValueError))
        assert [report["exception"] for report in reports] == [exc]
        assert reports[0]["message"] == "Fatal write error on datagram transport"
        assert reports[0]["transport"] is a and reports[0]["protocol"] is protocol

    either(main())


def test_too_long_is_an_error_and_the_rest_is_sent(either):
    async def main():
        with plain_socket() as receiver:
            a, protocol = await open_end(LOCAL)
            for data in (b"one", b"x" * 100_000, b"two"):
                a.sendto(data, receiver.getsockname())
            await protocol.until(lambda: protocol.errors)
            await asyncio.sleep(0)
            assert [receiver.recv(10), receiver.recv(10)] == [b"one", b"two"]
            assert len(protocol.errors) == 1 and isinstance(protocol.errors[0], OSError)
            await close(protocol)

    either(main())


def test_error_received_may_close(run):
    async def main():
        with plain_socket() as receiver:
            protocol = Recorder(error=lambda self, exc: self.transport.close())
            a, _ = await open_end(LOCAL, protocol=protocol)
            a.sendto(b"x" * 100_000, receiver.getsockname())
            a.sendto(b"two", receiver.getsockname())
            assert await protocol.lost is None
            assert receiver.recv(10) == b"two"

    run(asyncio.wait_for(main(), TIMEOUT))


def test_sendto_after_the_end(either, caplog):
    async def main():
        with plain_socket() as receiver:
            a, protocol = await open_end(remote_addr=receiver.getsockname())
            await close(protocol)
            for _ in range(7):
                a.sendto(b"x")
            with pytest.raises(BlockingIOError):
                receiver.recv(10)

    either(main())
    assert [record.getMessage() for record in caplog.records] == ["socket.send() raised exception."] * 3


# Receiving.

def test_ipv6_addresses_have_four_items(either):
    async def main():
        with plain_socket(socket.AF_INET6, ("::1", 0)) as peer:
            a, protocol = await open_end(("::1", 0))
            peer.sendto(b"x", name_of(a))
            await protocol.until(lambda: protocol.got)
            assert protocol.got == [(b"x", peer.getsockname())]
            scope = socket.if_nametoindex("lo")
            for address in (peer.getsockname(), ("::1", peer.getsockname()[1]),
                            ("::1", peer.getsockname()[1], 0, scope)):
                a.sendto(b"y", address)
                await asyncio.sleep(0)
                assert peer.recv(10) == b"y"
            assert not protocol.errors
            await close(protocol)

    either(main())


def test_unix_senders(either, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        a, protocol = await open_end("a", family=socket.AF_UNIX)
        with plain_socket(socket.AF_UNIX, "peer") as peer, \
                plain_socket(socket.AF_UNIX, b"\0abstract-" + str(tmp_path).encode()[-40:]) as abstract, \
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
            for sock in (peer, abstract, nameless):
                sock.sendto(b"x", "a")
            await protocol.until(lambda: len(protocol.got) == 3)
            assert [addr for _, addr in protocol.got] == ["peer", abstract.getsockname(), None]
            a.sendto(b"1", "peer")
            a.sendto(b"2", b"peer")
            a.sendto(b"3", bytearray(b"peer"))
            a.sendto(b"4", abstract.getsockname())
            peer.sendto(b"y" * 100_000, "a")
            await protocol.until(lambda: len(protocol.got) == 4)
            assert len(protocol.got[3][0]) == 100_000
            assert sorted(peer.recv(10) for _ in range(3)) == [b"1", b"2", b"3"]
            assert abstract.recv(10) == b"4"
            a.sendto(b"x", "nobody")
            await protocol.until(lambda: protocol.errors)
            assert isinstance(protocol.errors[0], FileNotFoundError)
        await close(protocol)

    either(main())


def test_the_protocol_runs_in_the_context_of_its_making(either):
    variable = contextvars.ContextVar("variable", default="unset")

    async def main():
        seen = []
        protocol = Recorder(datagram=lambda *_: (seen.append(variable.get()), variable.set("inside")))
        variable.set("outside")
        a, _ = await open_end(LOCAL, protocol=protocol)
        variable.set("later")
        a.sendto(b"1", name_of(a))
        a.sendto(b"2", name_of(a))
        await protocol.until(lambda: len(seen) == 2)
        assert seen == ["outside", "inside"]
        assert variable.get() == "later"
        await close(protocol)

    either(main())


def test_another_protocol(either):
    async def main():
        a, first = await open_end(LOCAL)
        a.sendto(b"1", name_of(a))
        await first.until(lambda: first.got)
        second = Recorder()
        a.set_protocol(second)
        assert a.get_protocol() is second
        a.sendto(b"2", name_of(a))
        await second.until(lambda: second.got)
        assert len(first.got) == 1
        a.close()
        await second.lost
        assert a.get_protocol() is None

    either(main())


def test_close_in_the_middle_of_what_is_there(either):
    async def main():
        with plain_socket() as sender:
            protocol = Recorder(datagram=lambda self, *_: len(self.got) == 3 and self.transport.close())
            a, _ = await open_end(LOCAL, protocol=protocol)
            for _ in range(20):
                sender.sendto(b"x", name_of(a))
            assert await protocol.lost is None
            assert len(protocol.got) == 3

    either(main())


def test_pause_reading(either):
    async def main():
        a, protocol = await open_end(LOCAL)
        assert a.is_reading()
        a.pause_reading()
        a.pause_reading()
        assert not a.is_reading()
        a.sendto(b"x", name_of(a))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not protocol.got
        a.resume_reading()
        await protocol.until(lambda: protocol.got)
        await close(protocol)

    either(main())


# The end.

def test_the_users_socket_may_be_closed(run):
    async def main():
        mine = plain_socket()
        a, protocol = await open_end(sock=mine)
        mine.close()
        a.sendto(b"x", name_of(a))
        await protocol.until(lambda: protocol.got)
        fd = a._sock_fd
        await close(protocol)
        with pytest.raises(OSError):
            socket.socket(fileno=fd).close()

    run(asyncio.wait_for(main(), TIMEOUT))


def test_a_loop_that_is_closed_before(loop):
    async def main():
        a, _ = await open_end(LOCAL)
        a.sendto(b"x", name_of(a))
        return a

    a = loop.run_until_complete(main())
    assert "fd=" in repr(a)
    loop.close()
    repr(a)
    with pytest.raises(RuntimeError):
        a.close()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del a
        gc.collect()


def test_an_open_transport_owns_its_descriptor(either):
    async def main():
        loop = asyncio.get_running_loop()
        a, protocol = await open_end(LOCAL)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(a._sock_fd, print)
        assert "fd=%d" % a._sock_fd in repr(a)
        await close(protocol)
        assert "closed" in repr(a)

    either(main())


def test_limits(either):
    async def main():
        a, protocol = await open_end(LOCAL)
        assert a.get_write_buffer_limits() == (16384, 65536)
        a.set_write_buffer_limits(high=100, low=10)
        assert a.get_write_buffer_limits() == (10, 100)
        a.set_write_buffer_limits(high=float("inf"), low=0)
        a.sendto(b"x" * 1000, name_of(a))
        for bad in ({"high": -1}, {"high": 1, "low": 2}):
            with pytest.raises(ValueError):
                a.set_write_buffer_limits(**bad)
        await protocol.until(lambda: protocol.got)
        assert not protocol.flow
        await close(protocol)

    either(main())


def test_nothing_is_kept_after_the_end(run):
    async def main():
        a, protocol = await open_end(LOCAL)
        data = b"x" * 700
        before = sys.getrefcount(data)
        a.sendto(data, name_of(a))
        await protocol.until(lambda: protocol.got)
        assert sys.getrefcount(data) == before
        await close(protocol)
        assert a._sock is None and a._protocol is None

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main())
        gc.collect()
