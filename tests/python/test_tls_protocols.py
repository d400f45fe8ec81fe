"""Protocols on TLS: what a message takes the short way for, and what leaves it."""

import asyncio

import pytest
from tls_kit import make_contexts

TIMEOUT = 30


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return make_contexts(tmp_path_factory.mktemp("tls"))


class Peer(asyncio.Protocol):
    """Collects; `on_data(peer, data)` is what data_received() does beyond that."""

    def __init__(self, on_data=None):
        loop = asyncio.get_running_loop()
        self.on_data = on_data
        self.received = bytearray()
        self.calls = []
        self.made = loop.create_future()
        self.lost = loop.create_future()
        self.wanted = None  # (size, future)

    def connection_made(self, transport):
        self.transport = transport
        self.made.set_result(None)

    def data_received(self, data):
        self.received += data
        if self.on_data is not None:
            self.on_data(self, data)
        if self.wanted is not None and len(self.received) >= self.wanted[0]:
            self.wanted[1].set_result(None)
            self.wanted = None

    def eof_received(self):
        self.calls.append("eof")

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")

    def connection_lost(self, exc):
        self.lost.set_result(exc)

    async def receive(self, size):
        if len(self.received) < size:
            self.wanted = (size, asyncio.get_running_loop().create_future())
            await asyncio.wait_for(self.wanted[1], TIMEOUT)
        return bytes(self.received)


def connected(run, contexts, test, on_data=None):
    """Runs test(server's peer, client's peer) over a new connection; on_data is the server's."""

    async def main():
        loop = asyncio.get_running_loop()
        served = []

        def accept():
            served.append(Peer(on_data))
            return served[-1]

        server = await loop.create_server(accept, "127.0.0.1", 0, ssl=contexts[0])
        address = server.sockets[0].getsockname()
        _, client = await loop.create_connection(Peer, *address, ssl=contexts[1],
                                                 server_hostname="localhost")
        while not served:
            await asyncio.sleep(0)
        await asyncio.wait_for(served[0].made, TIMEOUT)
        await test(served[0], client)
        client.transport.close()
        for peer in (client, served[0]):
            await asyncio.wait_for(asyncio.wait([peer.lost]), TIMEOUT)
        server.close()
        await asyncio.wait_for(server.wait_closed(), TIMEOUT)

    run(main())


def test_writes_of_every_kind_keep_their_order(run, contexts):
    pieces = [b"one", bytearray(b"two"), memoryview(b"three"), b"", b"x" * 40_000, b"end"]

    def answer(peer, data):
        for piece in pieces:
            peer.transport.write(piece)
        peer.transport.writelines([b"a", b"b" * 20_000, b"c"])

    async def test(_, client):
        expected = b"".join(map(bytes, pieces)) + b"a" + b"b" * 20_000 + b"c"
        client.transport.write(b"go")
        assert await client.receive(len(expected)) == expected

    connected(run, contexts, test, answer)


def test_a_message_of_many_records_is_whole(run, contexts):
    data = bytes(range(256)) * 2_000

    async def test(_, client):
        client.transport.write(data)
        assert await client.receive(len(data)) == data

    connected(run, contexts, test, lambda peer, data: peer.transport.write(data))


def test_an_error_of_data_received_ends_the_connection(run, contexts, reports):
    async def test(served, client):
        client.transport.write(b"boom")
        exc = await asyncio.wait_for(asyncio.shield(served.lost), TIMEOUT)
        assert isinstance(exc, (ZeroDivisionError, type(None)))
        await asyncio.wait_for(asyncio.wait([client.lost]), TIMEOUT)

    connected(run, contexts, test, lambda peer, data: 1 / 0)
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]
    assert reports[0]["message"] == "Fatal error on SSL protocol"
    reports.clear()


def test_what_was_written_before_close_arrives(run, contexts):
    def answer_and_close(peer, data):
        peer.transport.write(b"bye " + data)
        peer.transport.close()
        peer.transport.write(b"too late")

    async def test(served, client):
        client.transport.write(b"now")
        assert await asyncio.wait_for(asyncio.shield(client.lost), TIMEOUT) is None
        assert client.received == b"bye now" and client.calls == ["eof"]
        assert await asyncio.wait_for(asyncio.shield(served.lost), TIMEOUT) is None

    connected(run, contexts, test, answer_and_close)


def test_abort_inside_data_received(run, contexts):
    async def test(served, client):
        client.transport.write(b"now")
        await asyncio.wait_for(asyncio.wait([served.lost, client.lost]), TIMEOUT)
        assert client.received == b""

    connected(run, contexts, test, lambda peer, data: peer.transport.abort())


def test_pausing_inside_data_received(run, contexts):
    data = bytes(range(250)) * 4_000

    def pause(peer, data):
        peer.calls.append("data")
        peer.transport.pause_reading()

    async def test(served, client):
        client.transport.write(data)
        while len(served.received) < len(data):
            before = len(served.calls)
            served.transport.resume_reading()
            while len(served.calls) == before:
                await asyncio.sleep(0)
        assert served.received == data
        served.transport.resume_reading()  # or it would never see the end

    connected(run, contexts, test, pause)


def test_a_peer_that_does_not_read_pauses_the_writer(run, contexts):
    async def test(served, client):
        served.transport.pause_reading()
        sent = 0
        while "pause" not in client.calls:
            client.transport.write(b"x" * 100_000)
            sent += 100_000
            await asyncio.sleep(0)
        client.transport.write(b"the end")
        assert client.transport.get_write_buffer_size() > 0
        served.transport.resume_reading()
        assert (await served.receive(sent + 7)).endswith(b"xthe end")
        while "resume" not in client.calls:
            await asyncio.sleep(0)
        client.transport.write(b"!")
        await served.receive(sent + 8)

    connected(run, contexts, test)


def test_wrong_data_and_late_data(run, contexts):
    async def test(served, client):
        for data in ("text", 5, None):
            with pytest.raises(TypeError):
                client.transport.write(data)
        client.transport.close()
        client.transport.write(b"late")
        await asyncio.wait_for(asyncio.wait([served.lost]), TIMEOUT)
        assert served.received == b""

    connected(run, contexts, test)


def test_writelines_takes_any_iterable(run, contexts):
    async def test(_, client):
        client.transport.writelines(piece for piece in (b"a", b"b"))
        client.transport.writelines({b"c": 1})
        client.transport.writelines((b"d",))
        assert await client.receive(4) == b"abcd"
        with pytest.raises(TypeError):
            client.transport.writelines((5,))

    connected(run, contexts, test, lambda peer, data: peer.transport.write(data))


def test_a_writer_without_a_buffer_goes_on_after_each_answer(run, contexts):
    async def main():
        async def echo(reader, writer):
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=contexts[0])
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=contexts[1], server_hostname="localhost")
        writer.transport.set_write_buffer_limits(high=0)
        for number in range(5):
            message = b"message %d" % number
            writer.write(message)
            await asyncio.wait_for(writer.drain(), TIMEOUT)
            assert await asyncio.wait_for(reader.readexactly(len(message)), TIMEOUT) == message
        writer.close()
        await writer.wait_closed()
        server.close()
        await asyncio.wait_for(server.wait_closed(), TIMEOUT)

    run(main())
