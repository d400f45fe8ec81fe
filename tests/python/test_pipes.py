"""connect_read_pipe() and connect_write_pipe()."""

import asyncio
import os
import socket
import struct

import pytest

TIMEOUT = 20


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.data = bytearray()
        self.calls = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.calls.append("eof")

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def transports():
    """((reading transport, its protocol), (writing transport, its protocol)) of one pipe."""
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    return (await loop.connect_read_pipe(Recorder, open(read, "rb", 0)),
            await loop.connect_write_pipe(Recorder, open(write, "wb", 0)))


def test_large_data_with_flow_control(run):
    async def main():
        (_, reading), (writer, writing) = await transports()
        data = os.urandom(1_000_000)
        writer.write(data[:5])
        writer.writelines([data[5:9], bytearray(data[9:20])])
        writer.write(memoryview(data)[20:])
        assert writing.calls == ["pause"] and writer.get_write_buffer_size() > 0
        writer.write_eof()
        assert await asyncio.wait_for(reading.lost, TIMEOUT) is None
        assert await asyncio.wait_for(writing.lost, TIMEOUT) is None
        assert reading.data == data and reading.calls == ["eof"] and writing.calls == ["pause", "resume"]

    run(main())


def test_pause_and_resume_reading(run):
    async def main():
        (reader, reading), (writer, _) = await transports()
        reader.pause_reading()
        writer.write(b"held back")
        for _ in range(5):
            await asyncio.sleep(0)
        assert reading.data == b"" and not reader.is_reading()
        reader.resume_reading()
        while not reading.data:
            await asyncio.sleep(0)
        assert reading.data == b"held back"
        writer.close()
        await reading.lost

    run(asyncio.wait_for(main(), TIMEOUT))


def test_the_reader_goes_away(run):
    async def main():
        (reader, reading), (writer, writing) = await transports()
        reader.close()
        await asyncio.wait_for(reading.lost, TIMEOUT)
        # The writer is told without writing.
        exc = await asyncio.wait_for(writing.lost, TIMEOUT)
        assert exc is None or isinstance(exc, BrokenPipeError)
        writer.write(b"late")
        writer.close()

    run(main())


def test_abort_drops_the_queue(run):
    async def main():
        (_, reading), (writer, writing) = await transports()
        writer.write(b"x" * 1_000_000)
        writer.abort()
        assert await asyncio.wait_for(writing.lost, TIMEOUT) is None
        await asyncio.wait_for(reading.lost, TIMEOUT)
        assert 0 < len(reading.data) < 1_000_000

    run(main())


def test_sockets_are_pipes_too(run):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        _, reading = await loop.connect_read_pipe(Recorder, a)
        writer, _ = await loop.connect_write_pipe(Recorder, b)
        writer.write(b"through a socket")
        writer.close()
        await asyncio.wait_for(reading.lost, TIMEOUT)
        assert reading.data == b"through a socket"

    run(main())


def test_regular_files_are_refused_and_stay_open(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        with open(tmp_path / "file", "w+b") as file:
            for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
                with pytest.raises(ValueError):
                    await connect(Recorder, file)
            assert not file.closed

    run(main())


def test_what_the_pipe_does_not_take_follows_in_order(run):
    async def main():
        (reader, reading), (writer, writing) = await transports()
        reader.pause_reading()
        pieces = [bytes([i % 251]) * size for i, size in enumerate([1, 70_000, 5, 4096, 200_000, 3])]
        for piece in pieces:
            writer.write(piece)
        expected = b"".join(pieces)
        sent = len(expected) - writer.get_write_buffer_size()
        assert 0 < sent < len(expected)
        reader.resume_reading()
        writer.close()
        assert await asyncio.wait_for(reading.lost, TIMEOUT) is None
        assert reading.data == expected

    run(main())


@pytest.mark.parametrize("data", [b"", bytearray(b"ab"), memoryview(b"abc"), b"abcd"])
def test_each_kind_of_data(run, data):
    async def main():
        (_, reading), (writer, _) = await transports()
        assert writer.write(data) is None
        writer.close()
        await asyncio.wait_for(reading.lost, TIMEOUT)
        assert reading.data == bytes(data)

    run(main())


def test_wrong_data_is_refused(run):
    async def main():
        (_, reading), (writer, _) = await transports()
        for data in ("text", None, 5, [1]):
            with pytest.raises((TypeError, AssertionError)):
                writer.write(data)
        with pytest.raises(TypeError):
            writer.write()
        with pytest.raises(TypeError):
            writer.write(b"a", b"b")
        writer.close()
        await asyncio.wait_for(reading.lost, TIMEOUT)
        assert reading.data == b""

    run(main())


def test_an_error_of_data_received_is_reported_and_reading_goes_on(run):
    async def main():
        loop = asyncio.get_running_loop()
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
        (_, reading), (writer, _) = await transports()
        reading.data_received = lambda data: 1 / 0
        writer.write(b"first")
        while not reports:
            await asyncio.sleep(0)
        del reading.data_received
        writer.write(b"second")
        writer.close()
        await asyncio.wait_for(reading.lost, TIMEOUT)
        assert isinstance(reports[0], ZeroDivisionError) and reading.data == b"second"

    run(main())


def test_the_protocol_may_be_exchanged(run):
    async def main():
        (reader, first), (writer, _) = await transports()
        second = Recorder()
        writer.write(b"one")
        while not first.data:
            await asyncio.sleep(0)
        reader.set_protocol(second)
        writer.write(b"two")
        writer.close()
        await asyncio.wait_for(second.lost, TIMEOUT)
        assert first.data == b"one" and second.data == b"two"

    run(main())


def test_a_terminal_ends_at_once(run):
    async def main():
        loop = asyncio.get_running_loop()
        master, slave = os.openpty()
        _, reading = await loop.connect_read_pipe(Recorder, open(slave, "rb", 0))
        os.write(master, b"line\n")
        while not reading.data:
            await asyncio.sleep(0)
        os.write(master, b"\x04")  # control-D: read(2) says once that this is the end
        assert await asyncio.wait_for(reading.lost, TIMEOUT) is None
        assert reading.data == b"line\n" and reading.calls == ["eof"]
        os.close(master)

    run(main())


def reset(connection):
    """Closes it so that the other end gets ECONNRESET, once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("reads", [True, False])
def test_a_connection_that_was_reset_says_so(run, reports, reads):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        if reads:
            _, protocol = await loop.connect_read_pipe(Recorder, ours)
            reset(theirs)
        else:
            transport, protocol = await loop.connect_write_pipe(Recorder, ours)
            reset(theirs)
            transport.write(b"into the void")
        exc = await asyncio.wait_for(protocol.lost, TIMEOUT)
        assert isinstance(exc, ConnectionResetError)
        assert protocol.calls == []

    run(main())
    assert [type(report["exception"]) for report in reports] == [ConnectionResetError] * reads
    reports.clear()


def test_data_is_a_keyword(run):
    async def main():
        (_, reading), (writer, _) = await transports()
        writer.write(data=b"named")
        writer.close()
        await asyncio.wait_for(reading.lost, TIMEOUT)
        assert reading.data == b"named"

    run(main())
