"""asyncio's streams on our transports: bulk transfer, back-pressure, half-close, sendfile."""

import asyncio
import hashlib
import os
import resource
import socket
import tempfile

import pytest

TIMEOUT = 60
MB = 1 << 20


async def serve(handler):
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()


async def stop(server):
    server.close()
    await asyncio.wait_for(server.wait_closed(), TIMEOUT)


def pattern(size):
    block = bytes(range(256)) * 257
    return (block * (size // len(block) + 1))[:size]


def test_echo_lines(run):
    async def handler(reader, writer):
        async for line in reader:
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    async def main():
        server, address = await serve(handler)
        reader, writer = await asyncio.open_connection(*address)
        for i in range(200):
            writer.write(b"line %d\n" % i)
            assert await reader.readline() == b"LINE %d\n" % i
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await stop(server)

    run(main())


@pytest.mark.skipif(os.environ.get("PYLOOP_SANITIZED") == "1",
                    reason="a sanitizer keeps freed memory for a while")
def test_100_mb_both_ways_with_flat_memory(run):
    total = 100 * MB
    chunk = pattern(MB)

    async def handler(reader, writer):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main():
        server, address = await serve(handler)
        reader, writer = await asyncio.open_connection(*address)
        queued = 0

        async def send():
            nonlocal queued
            for _ in range(total // MB):
                writer.write(chunk)
                await writer.drain()
                queued = max(queued, writer.transport.get_write_buffer_size())
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        digest, count = hashlib.sha256(), 0
        while data := await asyncio.wait_for(reader.read(1 << 18), TIMEOUT):
            digest.update(data)
            count += len(data)
        await sending
        assert count == total
        expected = hashlib.sha256()
        for _ in range(total // MB):
            expected.update(chunk)
        assert digest.digest() == expected.digest()
        assert queued <= 64 * 1024
        writer.close()
        await writer.wait_closed()
        await stop(server)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(main())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 40 * 1024, f"{grown} KiB more than before"


def test_a_slow_reader_holds_the_writer_back(run):
    """Nothing is read: what the writer may queue is bounded."""
    async def main():
        accepted = asyncio.get_running_loop().create_future()
        server, address = await serve(lambda r, w: accepted.set_result((r, w)))
        _, writer = await asyncio.open_connection(*address)
        reader, server_writer = await accepted
        sent = 0
        with pytest.raises(asyncio.TimeoutError):
            while sent < 500 * MB:
                writer.write(b"x" * 65536)
                sent += 65536
                await asyncio.wait_for(writer.drain(), 0.3)
        assert sent < 50 * MB
        # The reader's limit, its doubling in the protocol, and one read at most.
        assert len(reader._buffer) <= 3 * 2**16 + 2**18
        writer.transport.abort()
        server_writer.transport.abort()
        await stop(server)

    run(main())


def test_half_close_both_ways(run):
    async def handler(reader, writer):
        data = await reader.read()
        writer.write(b"%d bytes" % len(data))
        writer.close()

    async def main():
        server, address = await serve(handler)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x" * 100_000)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), TIMEOUT) == b"100000 bytes"
        writer.close()
        await writer.wait_closed()
        await stop(server)

    run(main())


def test_abort_with_data_queued(run):
    async def main():
        accepted = asyncio.get_running_loop().create_future()
        server, address = await serve(lambda r, w: accepted.set_result((r, w)))
        _, writer = await asyncio.open_connection(*address)
        server_reader, server_writer = await accepted
        writer.write(b"x" * (30 * MB))
        writer.transport.abort()
        await asyncio.wait_for(writer.wait_closed(), TIMEOUT)
        count = 0
        try:
            while data := await asyncio.wait_for(server_reader.read(MB), TIMEOUT):
                count += len(data)
        except ConnectionResetError:
            pass
        assert count < 30 * MB
        server_writer.close()
        await stop(server)

    run(main())


def test_1000_streams(run):
    async def handler(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    async def one(address, i):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"%d\n" % i)
        line = await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(line)

    async def main():
        server = await asyncio.start_server(handler, "127.0.0.1", 0, backlog=1024)
        address = server.sockets[0].getsockname()
        numbers = await asyncio.gather(*(one(address, i) for i in range(1000)))
        assert numbers == list(range(1000))
        await stop(server)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    run(main())


class Receiver(asyncio.Protocol):
    def __init__(self):
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("size", [0, 10, 5_000_000])
def test_sendfile(run, fallback, size):
    async def main():
        loop = asyncio.get_running_loop()
        receivers = []

        def factory():
            receivers.append(Receiver())
            return receivers[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(
            asyncio.Protocol, *server.sockets[0].getsockname())
        data = pattern(size)
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            transport.write(b"before:")
            if fallback:
                assert await loop._sendfile_fallback(transport, file, 0, None) == size
            else:
                assert await loop.sendfile(transport, file, fallback=False) == size
                assert file.tell() == size
        transport.write(b":after")
        transport.close()
        while not receivers:
            await asyncio.sleep(0)
        await asyncio.wait_for(receivers[0].lost, TIMEOUT)
        assert receivers[0].data == b"before:" + data + b":after"
        await stop(server)

    run(main())


def test_write_during_sendfile_is_refused(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 5_000_000)
            file.seek(0)
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            for _ in range(5):
                await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="^unable to write; sendfile is in progress$"):
                transport.write(b"no")
            received = 0
            while received < 5_000_000:
                received += len(await loop.sock_recv(theirs, MB))
            assert await sending == 5_000_000
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop.add_writer(ours.fileno(), print)
        transport.write(b"yes")
        assert await loop.sock_recv(theirs, 10) == b"yes"
        transport.abort()
        theirs.close()

    run(main())


def test_sendfile_when_the_peer_goes_away(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        transport, protocol = await loop.create_connection(Receiver, sock=ours)
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 50_000_000)
            file.seek(0)
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            assert await loop.sock_recv(theirs, 1000)
            theirs.close()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(sending, TIMEOUT)
        transport.abort()
        await asyncio.wait_for(protocol.lost, TIMEOUT)

    run(main())
