"""BufferedProtocol: reads go into the protocol's own memory."""

import asyncio
import socket

import pytest

TIMEOUT = 20


class Buffered(asyncio.BufferedProtocol):
    size = 4096

    def __init__(self):
        self.transport = None
        self.buffer = bytearray(self.size)
        self.data = bytearray()
        self.hints = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes):
        assert 0 < nbytes <= len(self.buffer)
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc):
        self.lost.set_result(exc)

    async def until_received(self, count):
        async with asyncio.timeout(TIMEOUT):
            while len(self.data) < count:
                await asyncio.sleep(0)


class Plain(asyncio.Protocol):
    def __init__(self):
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.lost.set_result(exc)

    until_received = Buffered.until_received


async def open_pair(protocol_class):
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(protocol_class, sock=ours)
    return transport, protocol, theirs


async def finish(transport, protocol, peer):
    transport.abort()
    await asyncio.wait_for(asyncio.shield(protocol.lost), TIMEOUT)
    peer.close()


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_every_byte_arrives(run, size):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await open_pair(type("B", (Buffered,), {"size": size}))
        sent = bytes(range(256)) * (8 if size < 4096 else 4000)
        sending = loop.create_task(loop.sock_sendall(peer, sent))
        await protocol.until_received(len(sent))
        await sending
        assert protocol.data == sent
        assert set(protocol.hints) == {-1}
        await finish(transport, protocol, peer)

    run(main())


def test_the_buffer_is_not_held_between_reads(run):
    """The protocol may resize its bytearray after buffer_updated()."""
    class Resizing(Buffered):
        def get_buffer(self, sizehint):
            self.buffer = bytearray(10)
            return self.buffer

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.buffer.extend(b"more")

    async def main():
        transport, protocol, peer = await open_pair(Resizing)
        for i in range(3):
            peer.send(b"0123456789abc")
            await protocol.until_received(13 * (i + 1))
        await finish(transport, protocol, peer)

    run(main())


def test_memoryview_slices_are_filled(run):
    class Slices(Buffered):
        def connection_made(self, transport):
            self.filled = 0

        def get_buffer(self, sizehint):
            return memoryview(self.buffer)[self.filled:]

        def buffer_updated(self, nbytes):
            self.filled += nbytes

    async def main():
        transport, protocol, peer = await open_pair(Slices)
        for chunk in (b"abc", b"def", b"ghi"):
            before = protocol.filled
            peer.send(chunk)
            async with asyncio.timeout(TIMEOUT):
                while protocol.filled == before:
                    await asyncio.sleep(0)
        assert protocol.buffer[:9] == b"abcdefghi"
        await finish(transport, protocol, peer)

    run(main())


@pytest.mark.parametrize("result, error", [
    (bytearray(), RuntimeError),
    (b"read-only", BufferError),
    (None, TypeError),
])
def test_bad_buffer_closes_the_connection(run, reports, result, error):
    class Bad(Buffered):
        def get_buffer(self, sizehint):
            return result

    async def main():
        transport, protocol, peer = await open_pair(Bad)
        peer.send(b"x")
        exc = await asyncio.wait_for(protocol.lost, TIMEOUT)
        assert isinstance(exc, error)
        if error is RuntimeError:
            assert str(exc) == "get_buffer() returned an empty buffer"
        assert [r["message"] for r in reports] == \
            ["Fatal error: protocol.get_buffer() call failed."]
        reports.clear()
        peer.close()

    run(main())


@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
def test_exception_closes_the_connection(run, reports, method):
    def fail(self, *args):
        raise ZeroDivisionError

    async def main():
        transport, protocol, peer = await open_pair(type("P", (Buffered,), {method: fail}))
        peer.send(b"x")
        assert isinstance(await asyncio.wait_for(protocol.lost, TIMEOUT), ZeroDivisionError)
        assert [r["message"] for r in reports] == \
            [f"Fatal error: protocol.{method}() call failed."]
        reports.clear()
        peer.close()

    run(main())


def test_switching_between_plain_and_buffered(run):
    async def main():
        transport, first, peer = await open_pair(Plain)
        expected = b""
        protocols = [first]
        for i in range(6):
            text = b"part %d" % i
            expected += text
            peer.send(text)
            await protocols[-1].until_received(len(text))
            protocols.append(Buffered() if i % 2 == 0 else Plain())
            transport.set_protocol(protocols[-1])
        assert b"".join(bytes(p.data) for p in protocols) == expected
        await finish(transport, protocols[-1], peer)

    run(main())


def test_switching_inside_a_callback(run):
    class Switching(Plain):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            super().data_received(data)
            self.next = Buffered()
            self.transport.set_protocol(self.next)

    async def main():
        transport, first, peer = await open_pair(Switching)
        peer.send(b"first")
        await first.until_received(5)
        peer.send(b"second")
        await first.next.until_received(6)
        assert (first.data, first.next.data) == (b"first", b"second")
        await finish(transport, first.next, peer)

    run(main())


def test_paused_data_goes_to_the_buffered_protocol(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, first, peer = await open_pair(Plain)
        transport.pause_reading()
        await loop.sock_sendall(peer, b"q" * 10_000)
        for _ in range(10):
            await asyncio.sleep(0)
        second = Buffered()
        transport.set_protocol(second)
        transport.resume_reading()
        await second.until_received(10_000)
        assert first.data == b""
        await finish(transport, second, peer)

    run(main())


def test_close_inside_get_buffer(run):
    class Closing(Buffered):
        def get_buffer(self, sizehint):
            self.transport.close()
            return self.buffer

        def buffer_updated(self, nbytes):
            raise AssertionError("closed")

    async def main():
        _, protocol, peer = await open_pair(Closing)
        peer.send(b"x")
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None
        peer.close()

    run(main())


def test_eof(run):
    async def main():
        _, protocol, peer = await open_pair(Buffered)
        peer.send(b"end")
        peer.shutdown(socket.SHUT_WR)
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None
        assert protocol.data == b"end"
        peer.close()

    run(main())
