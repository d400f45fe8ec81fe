"""StreamTransport against what asyncio's _SelectorSocketTransport does: reading, writing, protocols."""

import asyncio
import contextvars
import logging
import socket
import weakref

import pytest

from transport_kit import TIMEOUT, Recorder, finish, open_pair, open_tcp_pair, read_exactly


# ---- identity ----


def test_is_an_asyncio_transport(run):
    async def main():
        transport, protocol, peer = await open_pair()
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.ReadTransport)
        assert isinstance(transport, asyncio.WriteTransport)
        assert issubclass(type(transport), asyncio.BaseTransport)
        transport.anything = 1
        assert transport.__dict__ == {"anything": 1}
        assert weakref.ref(transport)() is transport
        assert {transport: 1}[transport] == 1
        assert transport.can_write_eof() is True
        assert transport.is_closing() is False
        assert transport.is_reading() is True
        assert transport.get_protocol() is protocol
        fd = transport.get_extra_info("socket").fileno()
        assert repr(transport) == \
            f"<StreamTransport fd={fd} read=polling write=<idle, bufsize=0>>"
        await finish(transport, protocol, peer)
        assert repr(transport) == f"<StreamTransport closed fd={fd}>"

    run(main())


def test_cannot_be_made_by_hand():
    from pyloop import _core
    with pytest.raises(TypeError):
        _core.StreamTransport()


class CountingSocket(socket.socket):
    received = sent = 0

    def recv(self, *args):
        data = super().recv(*args)
        self.received += len(data)
        return data

    def send(self, *args):
        count = super().send(*args)
        self.sent += count
        return count


def test_methods_of_a_subclass_of_socket_are_called(run, tmp_path):
    (tmp_path / "file").write_bytes(b"file")

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        counting = CountingSocket(fileno=ours.detach())
        transport, protocol = await loop.create_connection(lambda: Recorder(), sock=counting)
        assert type(transport).__module__ == "asyncio.selector_events"
        transport.write(b"hello")
        theirs.setblocking(False)
        assert await read_exactly(theirs, 5) == b"hello"
        with open(tmp_path / "file", "rb") as file:
            assert await loop.sendfile(transport, file) == 4
        assert await read_exactly(theirs, 4) == b"file"
        await loop.sock_sendall(theirs, b"abc")
        theirs.close()
        await protocol.lost
        assert counting.sent == 5 and counting.received == 3

    run(main())


def test_connection_made_comes_before_data_and_waiter(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.send(b"early")
        ours.setblocking(False)
        order = []

        class Protocol(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                order.append("made")

            def data_received(self, data):
                super().data_received(data)
                order.append("data")

        protocol = Protocol()
        waiter = loop.create_future()
        waiter.add_done_callback(lambda _: order.append("waiter"))
        transport = loop._make_socket_transport(ours, protocol, waiter)
        assert order == []
        await protocol.until("data_received")
        await waiter
        assert order[0] == "made"
        assert sorted(order) == ["data", "made", "waiter"]
        await finish(transport, protocol, theirs)

    run(main())


def test_cancelled_waiter_is_left_alone(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        protocol = Recorder()
        waiter = loop.create_future()
        transport = loop._make_socket_transport(ours, protocol, waiter)
        waiter.cancel()
        await protocol.until("connection_made")
        await finish(transport, protocol, theirs)

    run(main())


# ---- reading ----


def test_data_is_bytes(run):
    async def main():
        transport, protocol, peer = await open_pair()
        peer.send(b"hello")
        await protocol.until_received(5)
        assert protocol.data == b"hello"
        assert ("data_received", bytes) in protocol.calls
        await finish(transport, protocol, peer)

    run(main())


def test_paused_reading_delivers_nothing_and_resumes(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await open_pair()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        await loop.sock_sendall(peer, b"x" * 100)
        for _ in range(20):
            await asyncio.sleep(0)
        assert protocol.data == b""
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        await protocol.until_received(100)
        await finish(transport, protocol, peer)

    run(main())


def test_pause_in_data_received_stops_at_once(run):
    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await open_pair(Protocol)
        total = 0
        for step in range(1, 6):
            await loop.sock_sendall(peer, b"y" * 1000)
            total += 1000
            while len(protocol.data) < total:
                await asyncio.sleep(0)
                if not transport.is_reading():
                    transport.resume_reading()
        assert protocol.data == b"y" * 5000
        await finish(transport, protocol, peer)

    run(main())


def test_pause_in_connection_made_holds(run):
    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def main():
        transport, protocol, peer = await open_pair(Protocol)
        peer.send(b"z")
        for _ in range(20):
            await asyncio.sleep(0)
        assert protocol.data == b""
        transport.resume_reading()
        await protocol.until_received(1)
        await finish(transport, protocol, peer)

    run(main())


def test_set_protocol_between_reads(run):
    async def main():
        transport, first, peer = await open_pair()
        peer.send(b"one")
        await first.until_received(3)
        second = Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        peer.send(b"two")
        await second.until_received(3)
        assert (first.data, second.data) == (b"one", b"two")
        await finish(transport, second, peer)
        assert "connection_lost" not in first.names()

    run(main())


def test_eof_closes_by_default(run):
    async def main():
        transport, protocol, peer = await open_pair()
        peer.shutdown(socket.SHUT_WR)
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None
        assert protocol.names() == ["connection_made", "eof_received", "connection_lost"]
        assert transport.is_closing()
        peer.close()

    run(main())


def test_true_from_eof_received_keeps_writing_open(run):
    class Protocol(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    async def main():
        transport, protocol, peer = await open_pair(Protocol)
        peer.shutdown(socket.SHUT_WR)
        await protocol.until("eof_received")
        assert not transport.is_closing()
        transport.write(b"still here")
        assert await read_exactly(peer, 10) == b"still here"
        transport.close()
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None
        assert protocol.names().count("eof_received") == 1
        peer.close()

    run(main())


# ---- writing ----


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview,
                                  type("Sub", (bytes,), {})])
def test_write_takes_bytes_like(run, kind):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(kind(b"payload"))
        assert await read_exactly(peer, 7) == b"payload"
        await finish(transport, protocol, peer)

    run(main())


def test_a_bytearray_may_change_after_write(run):
    async def main():
        transport, protocol, peer = await open_pair()
        data = bytearray(b"before")
        transport.write(data)
        transport.write(memoryview(data))
        data[:] = b"after, and longer"
        assert await read_exactly(peer, 12) == b"beforebefore"
        await finish(transport, protocol, peer)

    run(main())


def test_write_refuses_what_is_not_bytes(run):
    async def main():
        transport, protocol, peer = await open_pair()
        for bad in ("text", 5, None, [b"x"]):
            with pytest.raises(TypeError) as error:
                transport.write(bad)
            assert str(error.value) == \
                f"data argument must be a bytes-like object, not {type(bad).__name__!r}"
        with pytest.raises(TypeError):
            transport.writelines([b"ok", "text"])
        with pytest.raises(TypeError):
            transport.writelines(5)
        transport.write(b"")
        transport.writelines([])
        transport.writelines([b"", b"a", bytearray(b"b"), memoryview(b"c"), b"d"])
        transport.writelines(iter([b"e", b"f"]))
        assert await read_exactly(peer, 6) == b"abcdef"
        await finish(transport, protocol, peer)

    run(main())


def test_non_contiguous_memoryview(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(memoryview(b"a1b2c3")[::2])
        assert await read_exactly(peer, 3) == b"abc"
        await finish(transport, protocol, peer)

    run(main())


def test_data_that_is_kept_is_never_changed(run):
    """The memory of what was dropped is used again; what somebody holds is not."""
    class Keeper(Recorder):
        def data_received(self, data):
            if len(data) % 3 == 0:
                kept.append((data, hash(data), bytearray(data)))
            elif len(data) % 3 == 1:
                views.append((memoryview(data), bytearray(data)))
            else:
                self.transport.write(data)
            super().data_received(data)

    kept, views = [], []

    async def main():
        transport, protocol, peer = await open_pair(Keeper)
        total = 0
        for i in range(600):
            size = 500 + (i * 37) % 1100
            total += size
            peer.send(bytes([i % 251]) * size)
            while len(protocol.data) < total:
                await asyncio.sleep(0)
            transport.write(bytearray(700))
            transport.write(b"q" * size)
            assert transport.get_write_buffer_size() == 0
            peer.recv(1 << 16)
        assert len(kept) > 100 and len(views) > 100
        for data, value, copy in kept:
            assert data == copy and hash(data) == value and len(data) == len(copy)
            assert hash(bytes(copy)) == value
        for view, copy in views:
            assert view == copy
        await finish(transport, protocol, peer)

    run(main())


def test_write_order_is_kept(run):
    async def main():
        transport, protocol, peer = await open_pair()
        pieces = [str(i).encode() + b"," for i in range(5000)]
        for i, piece in enumerate(pieces):
            transport.write(piece if i % 3 else bytearray(piece))
        whole = b"".join(pieces)
        assert await read_exactly(peer, len(whole)) == whole
        await finish(transport, protocol, peer)

    run(main())


def test_small_write_counts_as_sent(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(b"x" * 100)
        assert transport.get_write_buffer_size() == 0
        assert peer.recv(200) == b"x" * 100
        await finish(transport, protocol, peer)

    run(main())


def test_write_while_the_loop_does_not_run_leaves_at_once(loop):
    transport, protocol, peer = loop.run_until_complete(open_pair())
    transport.write(b"now")
    assert peer.recv(10) == b"now"
    loop.run_until_complete(finish(transport, protocol, peer))


def test_write_eof(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(b"last")
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match=r"^Cannot call write\(\) after write_eof\(\)$"):
            transport.write(b"more")
        with pytest.raises(RuntimeError, match=r"^Cannot call writelines\(\) after write_eof\(\)$"):
            transport.writelines([b"more"])
        assert await read_exactly(peer, 4) == b"last"
        assert await asyncio.get_running_loop().sock_recv(peer, 10) == b""
        peer.send(b"answer")
        await protocol.until_received(6)
        await finish(transport, protocol, peer)

    run(main())


def test_write_eof_waits_for_the_queue(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(b"x" * 3_000_000)
        transport.write_eof()
        assert await read_exactly(peer, 3_000_000) == b"x" * 3_000_000
        assert await asyncio.get_running_loop().sock_recv(peer, 10) == b""
        await finish(transport, protocol, peer)

    run(main())


def test_flow_control(run):
    async def main():
        transport, protocol, peer = await open_pair()
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        transport.write(b"x" * 4_000_000)
        assert protocol.names()[-1] == "pause_writing"
        size = transport.get_write_buffer_size()
        assert 64 * 1024 < size < 4_000_000
        transport.write(b"y" * 1000)
        assert protocol.names().count("pause_writing") == 1
        await read_exactly(peer, 4_001_000)
        await protocol.until("resume_writing")
        assert transport.get_write_buffer_size() <= 16 * 1024
        assert protocol.names().count("resume_writing") == 1
        await finish(transport, protocol, peer)

    run(main())


def test_write_buffer_limits(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=1000)
        assert transport.get_write_buffer_limits() == (1000, 4000)
        transport.set_write_buffer_limits(5, 3)
        assert transport.get_write_buffer_limits() == (3, 5)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        with pytest.raises(ValueError, match=r"^high \(1\) must be >= low \(2\) must be >= 0$"):
            transport.set_write_buffer_limits(high=1, low=2)
        with pytest.raises(ValueError, match=r"^high \(-1\) must be >= low \(-1\) must be >= 0$"):
            transport.set_write_buffer_limits(high=-1)
        transport.set_write_buffer_limits(high=0)
        while transport.get_write_buffer_size() == 0:
            transport.write(b"x" * 100_000)
        assert protocol.names()[-1] == "pause_writing"
        await finish(transport, protocol, peer)

    run(main())


def test_lowering_the_limit_pauses(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.set_write_buffer_limits(high=100_000_000)
        transport.write(b"x" * 4_000_000)
        assert "pause_writing" not in protocol.names()
        transport.set_write_buffer_limits(high=1000)
        assert protocol.names()[-1] == "pause_writing"
        await finish(transport, protocol, peer)

    run(main())


def test_failing_pause_writing_is_reported_and_not_fatal(run, reports):
    class Protocol(Recorder):
        def pause_writing(self):
            raise ZeroDivisionError("pause")

        def resume_writing(self):
            super().resume_writing()
            raise ZeroDivisionError("resume")

    async def main():
        transport, protocol, peer = await open_pair(Protocol)
        transport.write(b"x" * 4_000_000)
        assert reports[-1]["message"] == "protocol.pause_writing() failed"
        assert isinstance(reports[-1]["exception"], ZeroDivisionError)
        assert reports[-1]["transport"] is transport
        assert reports[-1]["protocol"] is protocol
        await read_exactly(peer, 4_000_000)
        await protocol.until("resume_writing")
        assert reports[-1]["message"] == "protocol.resume_writing() failed"
        assert not transport.is_closing()
        reports.clear()
        await finish(transport, protocol, peer)

    run(main())


# ---- closing ----


def test_close_sends_the_queue_first(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(b"x" * 3_000_000)
        transport.close()
        assert transport.is_closing()
        assert not transport.is_reading()
        assert "connection_lost" not in protocol.names()
        assert await read_exactly(peer, 3_000_000) == b"x" * 3_000_000
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None
        assert await asyncio.get_running_loop().sock_recv(peer, 10) == b""
        peer.close()

    run(main())


def test_connection_lost_comes_once_and_not_inside_close(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.close()
        transport.close()
        transport.abort()
        assert "connection_lost" not in protocol.names()
        await asyncio.wait_for(protocol.lost, TIMEOUT)
        transport.close()
        transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)
        assert protocol.names().count("connection_lost") == 1
        assert transport.get_protocol() is None
        peer.close()

    run(main())


def test_abort_drops_the_queue(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(b"x" * 10_000_000)
        transport.abort()
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None
        count = 0
        loop = asyncio.get_running_loop()
        while chunk := await loop.sock_recv(peer, 1 << 20):
            count += len(chunk)
        assert 0 < count < 10_000_000
        peer.close()

    run(main())


def test_what_was_written_before_abort_is_sent(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(b"bye")
        transport.abort()
        assert await read_exactly(peer, 3) == b"bye"
        await asyncio.wait_for(protocol.lost, TIMEOUT)
        peer.close()

    run(main())


def test_write_after_close_warns_from_the_fifth_on(run, caplog):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.close()
        await asyncio.wait_for(protocol.lost, TIMEOUT)
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(4):
                transport.write(b"x")
            assert caplog.records == []
            transport.write(b"x")
            transport.writelines([b"x"])
        assert [r.getMessage() for r in caplog.records] == ["socket.send() raised exception."] * 2
        peer.close()

    run(main())


def test_reset_by_peer(run):
    async def main():
        transport, protocol, peer = await open_tcp_pair()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        exc = await asyncio.wait_for(protocol.lost, TIMEOUT)
        assert isinstance(exc, ConnectionResetError)
        assert str(exc) == "[Errno 104] Connection reset by peer"
        assert "eof_received" not in protocol.names()
        transport.write(b"x")

    run(main())


def test_broken_pipe_while_writing(run):
    class Protocol(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    async def main():
        transport, protocol, peer = await open_pair(Protocol)
        peer.close()
        await protocol.until("eof_received")
        transport.write(b"x" * 100)
        exc = await asyncio.wait_for(protocol.lost, TIMEOUT)
        assert isinstance(exc, BrokenPipeError)

    run(main())


def test_transport_is_freed_when_closed(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport_ref = weakref.ref(transport)
        await finish(transport, protocol, peer)
        del transport
        protocol.transport = None
        for _ in range(3):
            await asyncio.sleep(0)
        assert transport_ref() is None

    run(main())


# ---- the protocol's exceptions ----


@pytest.mark.parametrize("method, message", [
    ("data_received", "Fatal error: protocol.data_received() call failed."),
    ("eof_received", "Fatal error: protocol.eof_received() call failed."),
])
def test_exception_of_the_protocol_closes_the_connection(run, reports, method, message):
    def fail(self, *args):
        raise ZeroDivisionError(method)

    async def main():
        transport, protocol, peer = await open_pair(type("P", (Recorder,), {method: fail}))
        peer.send(b"x")
        peer.shutdown(socket.SHUT_WR)
        exc = await asyncio.wait_for(protocol.lost, TIMEOUT)
        assert isinstance(exc, ZeroDivisionError)
        assert len(reports) == 1
        assert reports[0] == {"message": message, "exception": exc, "transport": transport,
                              "protocol": protocol}
        reports.clear()
        peer.close()

    run(main())


def test_exception_in_connection_made_is_reported_and_not_fatal(run, reports):
    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    async def main():
        transport, protocol, peer = await open_pair(Protocol)
        assert len(reports) == 1
        assert reports[0]["message"].startswith("Exception in callback ")
        assert "connection_made" in reports[0]["message"]
        reports.clear()
        peer.send(b"goes on")
        await protocol.until_received(7)
        await finish(transport, protocol, peer)

    run(main())


def test_exception_in_connection_lost_is_reported_and_the_socket_closed(run, reports):
    class Protocol(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    async def main():
        transport, protocol, peer = await open_pair(Protocol)
        transport.close()
        assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""
        assert [type(r["exception"]) for r in reports] == [ZeroDivisionError]
        reports.clear()
        peer.close()

    run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["data_received", "eof_received", "connection_lost"])
def test_interrupts_leave_run_forever(loop, error, method):
    def fail(self, *args):
        raise error

    transport, protocol, peer = loop.run_until_complete(
        open_pair(type("P", (Recorder,), {method: fail})))
    peer.send(b"x")
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(error):
        loop.run_forever()
    type(protocol).eof_received = Recorder.eof_received
    type(protocol).data_received = Recorder.data_received
    if method != "connection_lost":
        loop.run_until_complete(finish(transport, protocol))
    peer.close()


# ---- context ----

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def test_callbacks_run_in_the_context_of_creation(run):
    class Protocol(Recorder):
        def note(self, name, *args):
            super().note(name, *args)
            self.calls[-1] = (name, VARIABLE.get())

    async def main():
        VARIABLE.set("creation")
        transport, protocol, peer = await open_pair(Protocol)
        VARIABLE.set("later")
        peer.send(b"x")
        await protocol.until_received(1)
        transport.pause_reading()
        transport.write(b"x" * 4_000_000)
        await read_exactly(peer, 4_000_000)
        await protocol.until("resume_writing")
        transport.resume_reading()
        peer.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(protocol.lost, TIMEOUT)
        assert dict(protocol.calls) == {
            "connection_made": "creation", "data_received": "creation",
            "pause_writing": "later",  # called by write() itself
            "resume_writing": "creation", "eof_received": "creation",
            "connection_lost": "creation",
        }
        peer.close()

    run(main())


def test_a_variable_set_in_a_callback_stays_in_the_connection(run):
    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.calls.append(("seen", VARIABLE.get()))
            VARIABLE.set(data.decode())

    async def main():
        first = await open_pair(Protocol)
        second = await open_pair(Protocol)
        for transport, protocol, peer in (first, second):
            peer.send(b"a")
            await protocol.until_received(1)
            peer.send(b"b")
            await protocol.until_received(2)
            seen = [call[1] for call in protocol.calls if call[0] == "seen"]
            assert seen == ["unset", "a"]
        assert VARIABLE.get() == "unset"
        await finish(first[0], first[1], first[2])
        await finish(second[0], second[1], second[2])

    run(main())
