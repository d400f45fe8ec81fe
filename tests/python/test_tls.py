"""TLS through asyncio.sslproto over our transports."""

import asyncio
import socket
import ssl
import tempfile

import pytest
from tls_kit import make_contexts

TIMEOUT = 30


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return make_contexts(tmp_path_factory.mktemp("tls"))


async def stop(server):
    server.close()
    await asyncio.wait_for(server.wait_closed(), TIMEOUT)


async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(server_context, handler=echo, **kwargs):
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=server_context, **kwargs)
    return server, server.sockets[0].getsockname()


def test_echo(run, contexts):
    async def main():
        server, address = await serve(contexts[0])
        reader, writer = await asyncio.open_connection(
            *address, ssl=contexts[1], server_hostname="localhost")
        for size in (1, 1000, 3_000_000):
            data = bytes(range(250)) * (size // 250 + 1)
            writer.write(data)
            assert await asyncio.wait_for(reader.readexactly(len(data)), TIMEOUT) == data
        assert writer.get_extra_info("peername") == address
        assert writer.get_extra_info("cipher")
        assert writer.get_extra_info("ssl_object").version().startswith("TLS")
        assert writer.get_extra_info("socket").fileno() > 0
        writer.close()
        await writer.wait_closed()
        await stop(server)

    run(main())


def test_extra_info_on_the_server(run, contexts):
    async def main():
        info = asyncio.get_running_loop().create_future()

        async def handler(reader, writer):
            info.set_result([writer.get_extra_info(name) for name in
                             ("peername", "sockname", "sslcontext")])
            writer.close()

        server, address = await serve(contexts[0], handler)
        reader, writer = await asyncio.open_connection(
            *address, ssl=contexts[1], server_hostname="localhost")
        assert await info == [writer.get_extra_info("sockname"), address, contexts[0]]
        assert await reader.read() == b""
        writer.close()
        await stop(server)

    run(main())


def test_client_does_not_trust_the_server(run, contexts, reports):
    async def main():
        server, address = await serve(contexts[0])
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                *address, ssl=ssl.create_default_context(), server_hostname="localhost")
        await stop(server)
        reports.clear()

    run(main())


def test_plain_client_on_a_tls_server(run, contexts, reports):
    async def main():
        server, address = await serve(contexts[0])
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await asyncio.wait_for(reader.read(), TIMEOUT)
        writer.close()
        # The server goes on.
        reader, writer = await asyncio.open_connection(
            *address, ssl=contexts[1], server_hostname="localhost")
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
        await stop(server)
        reports.clear()

    run(main())


def test_handshake_timeout(run, contexts, reports):
    async def main():
        server, address = await serve(contexts[0], ssl_handshake_timeout=0.1)
        reader, writer = await asyncio.open_connection(*address)
        assert await asyncio.wait_for(reader.read(), TIMEOUT) == b""
        writer.close()
        await stop(server)
        reports.clear()

    run(main())


def test_handshake_timeout_of_the_client(run, contexts):
    async def main():
        writers = []
        silent = await asyncio.start_server(lambda r, w: writers.append(w), "127.0.0.1", 0)
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer than"):
            await asyncio.open_connection(
                *silent.sockets[0].getsockname(), ssl=contexts[1], server_hostname="localhost",
                ssl_handshake_timeout=0.1)
        for writer in writers:
            writer.close()
            await writer.wait_closed()
        await stop(silent)

    run(main())


def test_shutdown_timeout(run, contexts):
    """A peer that never answers close_notify does not keep the connection open."""
    async def main():
        loop = asyncio.get_running_loop()
        lost = loop.create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                transport.close()

            def connection_lost(self, exc):
                lost.set_result(exc)

        server = await loop.create_server(
            Server, "127.0.0.1", 0, ssl=contexts[0], ssl_shutdown_timeout=0.2)

        # A client that shakes hands, then leaves the connection open and silent.
        def client(address):
            sock = socket.create_connection(address)
            return contexts[1].wrap_socket(sock, server_hostname="localhost")

        sock = await loop.run_in_executor(None, client, server.sockets[0].getsockname())
        await asyncio.wait_for(lost, TIMEOUT)
        sock.close()
        await stop(server)

    run(main())


def test_start_tls(run, contexts):
    async def main():
        loop = asyncio.get_running_loop()

        async def handler(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"GO\n")
            await writer.drain()
            await writer.start_tls(contexts[0])
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"GO\n"
        await asyncio.wait_for(
            writer.start_tls(contexts[1], server_hostname="localhost"), TIMEOUT)
        writer.write(b"secret\n")
        assert await asyncio.wait_for(reader.readline(), TIMEOUT) == b"SECRET\n"
        writer.close()
        await writer.wait_closed()
        await stop(server)
        assert loop is asyncio.get_running_loop()

    run(main())


def test_unix_tls(run, contexts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        server = await asyncio.start_unix_server(echo, "tls.sock", ssl=contexts[0])
        reader, writer = await asyncio.open_unix_connection(
            "tls.sock", ssl=contexts[1], server_hostname="localhost")
        writer.write(b"over unix")
        assert await asyncio.wait_for(reader.readexactly(9), TIMEOUT) == b"over unix"
        writer.close()
        await stop(server)

    run(main())


def test_connect_accepted_socket_with_tls(run, contexts):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            conn, _ = listener.accept()

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(b"welcome")
                transport.close()

        accepting = asyncio.ensure_future(
            loop.connect_accepted_socket(Server, conn, ssl=contexts[0]))
        reader, writer = await asyncio.open_connection(
            sock=client, ssl=contexts[1], server_hostname="localhost")
        _, protocol = await asyncio.wait_for(accepting, TIMEOUT)
        assert isinstance(protocol, Server)
        assert await asyncio.wait_for(reader.read(), TIMEOUT) == b"welcome"
        writer.close()

    run(main())


def test_sendfile_falls_back(run, contexts):
    async def main():
        loop = asyncio.get_running_loop()
        received = asyncio.get_running_loop().create_future()

        async def handler(reader, writer):
            received.set_result(await reader.read())
            writer.close()

        server, address = await serve(contexts[0], handler)
        _, writer = await asyncio.open_connection(
            *address, ssl=contexts[1], server_hostname="localhost")
        with tempfile.TemporaryFile() as file:
            file.write(b"f" * 1_000_000)
            file.seek(0)
            assert await loop.sendfile(writer.transport, file) == 1_000_000
        writer.close()
        assert await asyncio.wait_for(received, TIMEOUT) == b"f" * 1_000_000
        await stop(server)

    run(main())


def test_bulk_with_flow_control(run, contexts):
    total = 20 << 20

    async def main():
        server, address = await serve(contexts[0])
        reader, writer = await asyncio.open_connection(
            *address, ssl=contexts[1], server_hostname="localhost")

        async def send():
            for _ in range(total >> 16):
                writer.write(b"z" * 65536)
                await writer.drain()

        sending = asyncio.ensure_future(send())
        count = 0
        while count < total:
            data = await asyncio.wait_for(reader.read(1 << 18), TIMEOUT)
            assert data.count(b"z") == len(data)
            count += len(data)
        await sending
        writer.close()
        await stop(server)

    run(main())
