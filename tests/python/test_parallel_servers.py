"""Parallel mode: connections of a server are placed on all views; transports are used from other views."""

import asyncio
import socket
import ssl
import threading

import parallel_kit
import pytest
import tls_kit

import pyloop

CONNECTIONS = 8


@pytest.fixture(params=[2, 3])
def run(request, backend):
    run_main = parallel_kit.checked_run(backend, request.param)
    return lambda main: run_main(main(request.param))


def here():
    return threading.get_ident(), asyncio.get_running_loop()


class Echo(asyncio.Protocol):
    made = None

    def connection_made(self, transport):
        self.place = here()
        self.transport = transport
        self.made.append(self)

    def data_received(self, data):
        assert here() == self.place
        self.transport.write(data)

    def connection_lost(self, error):
        assert here() == self.place and error is None


async def talk(address, text):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(text)
    assert await reader.readexactly(len(text)) == text
    return reader, writer


async def hang_up(connections):
    for reader, writer in connections:
        writer.close()
        await writer.wait_closed()


def test_create_server(run):
    async def main(workers):
        class Protocol(Echo):
            made = []
        server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
        async with server:
            connections = [await talk(server.sockets[0].getsockname(), b"%d" % i) for i in range(CONNECTIONS)]
            places = [protocol.place for protocol in Protocol.made]
            assert len(places) == CONNECTIONS
            counts = [places.count(place) for place in set(places)]
            assert len(counts) == workers and max(counts) - min(counts) <= 1
            assert all(protocol.transport.get_extra_info("peername") for protocol in Protocol.made)
            await hang_up(connections)
        await asyncio.wait_for(server.wait_closed(), 10)
    run(main)


def test_connections_on_their_way_count(backend):
    """Eight at once while the other view is busy: it gets four, not those that it has not seen yet."""
    async def main():
        release, complete = threading.Event(), pyloop.sync.Event()

        class Protocol(Echo):
            made = []

            def connection_made(self, transport):
                super().connection_made(transport)
                if len(self.made) == CONNECTIONS:
                    complete.set()

        loop = asyncio.get_running_loop()
        held = loop.create_future()
        loop._other_views[0].call_soon_threadsafe(
            lambda: (loop.call_soon_threadsafe(held.set_result, None), release.wait(10)))
        await held
        async with await loop.create_server(Protocol, "127.0.0.1", 0) as server:
            clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(CONNECTIONS)]
            for _ in range(20):  # turns in which they are accepted; later would do, too
                await asyncio.sleep(0)
            release.set()
            await asyncio.wait_for(complete.wait(), 10)
            for client in clients:
                client.close()
        places = [protocol.place for protocol in Protocol.made]
        assert sorted(map(places.count, set(places))) == [CONNECTIONS // 2] * 2

    with parallel_kit.parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert reports == []


@pytest.mark.parametrize("start_server", [asyncio.start_server, pyloop.start_server])
def test_start_server(run, start_server):
    async def main(workers):
        places = []

        async def serve(reader, writer):
            place = here()
            assert reader._loop is place[1] and asyncio.current_task() is not None
            async with asyncio.timeout(30):
                while data := await reader.read(100):
                    assert here() == place
                    writer.write(data)
                    await writer.drain()
            writer.close()
            places.append(place)
        server = await start_server(serve, "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()
            connections = [await talk(address, b"%d" % i) for i in range(CONNECTIONS)]
            await hang_up(connections)
            while len(places) < CONNECTIONS:
                await asyncio.sleep(0.001)
        assert len(set(places)) == workers
    run(main)


def test_tls(run, tmp_path):
    server_context, client_context = tls_kit.make_contexts(tmp_path)

    async def main(workers):
        class Protocol(Echo):
            made = []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Protocol, "127.0.0.1", 0, ssl=server_context)
        async with server:
            connections = []
            for _ in range(4):
                reader, writer = await asyncio.open_connection(
                    *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost")
                assert isinstance(writer.get_extra_info("ssl_object"), ssl.SSLObject)
                writer.write(b"x" * 1000)
                assert await reader.readexactly(1000) == b"x" * 1000
                connections.append((reader, writer))
            assert len({protocol.place for protocol in Protocol.made}) == workers
            await hang_up(connections)
    run(main)


def test_a_transport_is_used_from_another_view(backend):
    async def main():
        received = bytearray()
        ended = asyncio.get_running_loop().create_future()

        async def collect(reader, writer):
            while data := await reader.read(1000):
                received.extend(data)
            writer.close()
            ended.set_result(None)
        async with await asyncio.start_server(collect, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

            async def use():
                transport = writer.transport
                changed = bytearray(b"b")
                transport.write(b"a")
                transport.write(changed)
                changed[:] = b"?"
                transport.writelines([b"c", memoryview(b"d")])
                transport.pause_reading()
                transport.resume_reading()
                with pytest.raises(TypeError):
                    transport.write("text")
                transport.write_eof()
                transport.close()
            await parallel_kit.there(use())
            await asyncio.wait_for(ended, 30)
            assert received == b"abcd"
            await writer.wait_closed()
            await parallel_kit.there(asyncio.sleep(0))
            writer.transport.abort()
    with parallel_kit.parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert reports == []
