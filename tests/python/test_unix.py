"""Unix stream sockets: servers, connections, the path on disk."""

import asyncio
import os
import socket
import sys

import pytest

TIMEOUT = 20


class Echo(asyncio.Protocol):
    made = None

    def connection_made(self, transport):
        self.transport = transport
        type(self).made = self

    def data_received(self, data):
        self.transport.write(data)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a path of any length fits
    return "server.sock"


async def echo_once(path, data=b"hello"):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), TIMEOUT) == data
    writer.close()
    await writer.wait_closed()


async def stop(server):
    server.close()
    await asyncio.wait_for(server.wait_closed(), TIMEOUT)


def test_echo(run, path):
    async def main():
        server = await asyncio.get_running_loop().create_unix_server(Echo, path)
        await echo_once(path)
        await echo_once(path, b"x" * 1_000_000)
        await stop(server)

    run(main())


def test_extra_info(run, path):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Echo, path)
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, path)
        while Echo.made is None:
            await asyncio.sleep(0)
        accepted = Echo.made.transport
        assert accepted.get_extra_info("sockname") == path
        assert accepted.get_extra_info("peername") == ""
        assert accepted.get_extra_info("socket").family == socket.AF_UNIX
        assert transport.get_extra_info("peername") == path
        transport.close()
        await stop(server)

    Echo.made = None
    run(main())


def test_abstract_address(run):
    name = f"\0pyloop-test-{os.getpid()}"

    async def main():
        Echo.made = None
        server = await asyncio.get_running_loop().create_unix_server(Echo, name)
        await echo_once(name)
        assert Echo.made.transport.get_extra_info("sockname") == name.encode()
        await stop(server)

    run(main())


def test_bound_client_has_a_name(run, path):
    async def main():
        loop = asyncio.get_running_loop()
        Echo.made = None
        server = await loop.create_unix_server(Echo, path)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("client.sock")
        sock.connect(path)
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=sock)
        while Echo.made is None:
            await asyncio.sleep(0)
        assert Echo.made.transport.get_extra_info("peername") == "client.sock"
        transport.close()
        await stop(server)

    run(main())


def test_a_stale_path_is_replaced(run, path):
    async def main():
        loop = asyncio.get_running_loop()
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(path)
        stale.close()
        server = await loop.create_unix_server(Echo, path)
        await echo_once(path)
        await stop(server)

    run(main())


def test_a_path_that_is_no_socket_is_kept(run, path):
    async def main():
        with open(path, "w", encoding="ascii") as file:
            file.write("precious")
        with pytest.raises(OSError):
            await asyncio.get_running_loop().create_unix_server(Echo, path)

    run(main())
    with open(path, encoding="ascii") as file:
        assert file.read() == "precious"


def test_the_path_after_close(run, path):
    """3.13 removes it, unless told not to; older versions leave it."""
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Echo, path)
        await stop(server)
        assert os.path.exists(path) == (sys.version_info < (3, 13))
        if sys.version_info >= (3, 13):
            server = await loop.create_unix_server(Echo, path, cleanup_socket=False)
            await stop(server)
            assert os.path.exists(path)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the path is removed since 3.13")
def test_the_path_of_a_successor_is_kept(run, path):
    async def main():
        loop = asyncio.get_running_loop()
        first = await loop.create_unix_server(Echo, path)
        second = await loop.create_unix_server(Echo, path)
        await stop(first)
        await echo_once(path)
        await stop(second)
        assert not os.path.exists(path)

    run(main())


def test_nobody_listens(run, path):
    async def main():
        with pytest.raises(FileNotFoundError):
            await asyncio.open_unix_connection(path)

    run(main())
