"""create_server() and everything around accepting."""

import asyncio
import contextvars
import errno
import resource
import socket
import sys
from asyncio import trsock

import pytest

TIMEOUT = 20


class Echo(asyncio.Protocol):
    made = None  # list of instances, per test

    def __init__(self):
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()
        if self.made is not None:
            self.made.append(self)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def echo_class():
    return type("Echo", (Echo,), {"made": []})


async def start(factory, **kwargs):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, **kwargs)
    return server, server.sockets[0].getsockname()


async def connect(address):
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    sock.setblocking(False)
    await loop.sock_connect(sock, address)
    return sock


async def roundtrip(sock, data):
    loop = asyncio.get_running_loop()
    sending = loop.create_task(loop.sock_sendall(sock, data))
    got = bytearray()
    while len(got) < len(data):
        chunk = await asyncio.wait_for(loop.sock_recv(sock, 1 << 16), TIMEOUT)
        assert chunk
        got += chunk
    await sending
    return bytes(got)


async def stop(server):
    server.close()
    await asyncio.wait_for(server.wait_closed(), TIMEOUT)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def test_echo(run):
    async def main():
        server, address = await start(echo_class())
        sock = await connect(address)
        assert await roundtrip(sock, b"hello" * 1000) == b"hello" * 1000
        sock.close()
        await stop(server)

    run(main())


def test_many_connections_at_once(run):
    async def main():
        factory = echo_class()
        server, address = await start(factory, backlog=2000)
        socks = [await connect(address) for _ in range(1000)]
        payloads = [b"connection %d" % i for i in range(1000)]
        assert await asyncio.gather(*map(roundtrip, socks, payloads)) == payloads
        assert len(factory.made) == 1000
        for sock in socks:
            sock.close()
        await asyncio.wait_for(asyncio.gather(*(p.lost for p in factory.made)), TIMEOUT)
        await stop(server)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    run(main())


def test_extra_info_of_an_accepted_connection(run):
    async def main():
        factory = echo_class()
        server, address = await start(factory)
        sock = await connect(address)
        assert await roundtrip(sock, b"x") == b"x"
        transport = factory.made[0].transport
        assert transport.get_extra_info("peername") == sock.getsockname()
        assert transport.get_extra_info("sockname") == address
        wrapped = transport.get_extra_info("socket")
        assert type(wrapped) is trsock.TransportSocket
        assert wrapped.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert wrapped.gettimeout() == 0
        assert (wrapped.family, wrapped.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert set(transport._extra) == {"socket", "sockname", "peername"}
        assert await roundtrip(sock, b"y") == b"y"
        fd = wrapped.fileno()
        sock.close()
        await asyncio.wait_for(factory.made[0].lost, TIMEOUT)
        await turns()
        assert wrapped.fileno() == -1
        others = [socket.socket() for _ in range(4)]
        assert fd in [other.fileno() for other in others]  # the number is free again
        await turns()
        for other in others:  # and is closed only once
            other.getsockname()
            other.close()
        await stop(server)

    run(main())


def test_names_of_a_connection_that_was_reset(run):
    """asyncio knows them from accept on; the kernel forgets the peer's."""
    async def main():
        factory = echo_class()
        server, address = await start(factory)
        sock = await connect(address)
        name = sock.getsockname()
        assert await roundtrip(sock, b"x") == b"x"
        transport = factory.made[0].transport
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        exc = await asyncio.wait_for(factory.made[0].lost, TIMEOUT)
        assert isinstance(exc, ConnectionResetError)
        await turns()
        assert transport.get_extra_info("peername") == name
        assert transport.get_extra_info("sockname") == address
        assert transport.get_extra_info("socket").fileno() == -1
        await stop(server)

    run(main())


def test_ipv6(run):
    async def main():
        factory = echo_class()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "::1", 0)
        address = server.sockets[0].getsockname()
        sock = await connect(address)
        assert await roundtrip(sock, b"six") == b"six"
        transport = factory.made[0].transport
        assert transport.get_extra_info("peername") == sock.getsockname()
        assert transport.get_extra_info("sockname") == sock.getpeername()
        sock.close()
        await stop(server)

    run(main())


def test_exception_of_the_factory(run, reports):
    async def main():
        def factory():
            raise ZeroDivisionError("factory")

        server, address = await start(factory)
        sock = await connect(address)
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(sock, 1), TIMEOUT) == b""
        sock.close()
        assert [r["message"] for r in reports] == \
            ["Error on transport creation for incoming connection"]
        assert isinstance(reports[0]["exception"], ZeroDivisionError)
        reports.clear()
        await stop(server)

    run(main())


def test_factory_that_closes_the_server(run, reports):
    """asyncio's Server takes no connection any more: it is closed, and nothing worse happens."""
    async def main():
        servers = []

        def factory():
            servers[0].close()
            return Echo()

        server, address = await start(factory)
        servers.append(server)
        sock = await connect(address)
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(sock, 1), TIMEOUT) == b""
        sock.close()
        await asyncio.wait_for(server.wait_closed(), TIMEOUT)
        assert [type(r["exception"]) for r in reports] == [AssertionError]
        reports.clear()

    run(main())


def test_close_stops_listening_at_once(run):
    async def main():
        server, address = await start(Echo)
        server.close()
        assert server.sockets == ()
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(sock, address)

    run(main())


def test_the_port_is_free_after_close(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address = await start(Echo)
        for _ in range(10):
            server.close()
            server = await loop.create_server(Echo, *address)
        sock = await connect(address)
        assert await roundtrip(sock, b"x") == b"x"
        sock.close()
        await stop(server)

    run(main())


def test_a_shared_listening_socket_lives_on(run):
    """Another process may accept on it: closing the server must not shut it down."""
    async def main():
        listener = socket.create_server(("127.0.0.1", 0))
        twin = listener.dup()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, sock=listener)
        await turns()
        server.close()
        await turns()
        assert listener.fileno() == -1
        client = await connect(twin.getsockname())
        peer, _ = twin.accept()
        for sock in (client, peer, twin):
            sock.close()

    run(main())


def test_start_serving_later(run):
    async def main():
        server, address = await start(Echo, start_serving=False)
        assert not server.is_serving()
        await server.start_serving()
        assert server.is_serving()
        sock = await connect(address)
        assert await roundtrip(sock, b"x") == b"x"
        sock.close()
        await stop(server)

    run(main())


def test_serve_forever_is_cancelled_by_close(run):
    async def main():
        server, _ = await start(Echo)
        serving = asyncio.ensure_future(server.serve_forever())
        await turns()
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await serving

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11 does not wait for the clients")
def test_wait_closed_waits_for_the_clients(run):
    async def main():
        factory = echo_class()
        server, address = await start(factory)
        sock = await connect(address)
        await roundtrip(sock, b"x")
        server.close()
        waiting = asyncio.ensure_future(server.wait_closed())
        await turns()
        assert not waiting.done()
        assert await roundtrip(sock, b"still served") == b"still served"
        sock.close()
        await asyncio.wait_for(waiting, TIMEOUT)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_clients_of_the_server(run, method):
    async def main():
        factory = echo_class()
        server, address = await start(factory)
        socks = [await connect(address) for _ in range(5)]
        for sock in socks:
            await roundtrip(sock, b"x")
        server.close()
        getattr(server, method)()
        await asyncio.wait_for(server.wait_closed(), TIMEOUT)
        assert all(p.lost.done() for p in factory.made)
        for sock in socks:
            sock.close()

    run(main())


def test_out_of_descriptors(run, reports):
    """EMFILE is reported once per attempt, and accepting goes on when there are some again."""
    async def main():
        loop = asyncio.get_running_loop()
        factory = echo_class()
        server, address = await start(factory)
        first = await connect(address)
        await roundtrip(first, b"x")
        clients = [socket.socket() for _ in range(3)]
        for client in clients:
            client.setblocking(False)
        hog = []
        try:
            while True:
                hog.append(socket.socket())
        except OSError as exc:
            assert exc.errno == errno.EMFILE
        for client in clients:
            await loop.sock_connect(client, address)
        async with asyncio.timeout(TIMEOUT):
            while not reports:
                await asyncio.sleep(0)
        await turns(100)
        assert len(reports) == 1
        assert reports[0]["message"] == "socket.accept() out of system resource"
        assert reports[0]["exception"].errno == errno.EMFILE
        assert type(reports[0]["socket"]) is trsock.TransportSocket
        assert await roundtrip(first, b"old ones work") == b"old ones work"
        for sock in hog:
            sock.close()
        for client in clients:
            assert await roundtrip(client, b"late") == b"late"
            client.close()
        first.close()
        await stop(server)
        reports.clear()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def test_each_connection_has_its_own_copy_of_the_servers_context(run):
    seen = []

    class Protocol(Echo):
        def __init__(self):
            super().__init__()
            seen.append(VARIABLE.get())
            VARIABLE.set("factory")

        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(VARIABLE.get())

        def data_received(self, data):
            seen.append(VARIABLE.get())
            super().data_received(data)

    async def main():
        VARIABLE.set("server")
        server, address = await start(Protocol)
        VARIABLE.set("after")
        for _ in range(2):
            sock = await connect(address)
            await roundtrip(sock, b"x")
            sock.close()
        assert seen == ["server", "factory", "factory"] * 2
        assert VARIABLE.get() == "after"
        await stop(server)

    run(main())


def test_connect_accepted_socket(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            conn, _ = listener.accept()
        client.setblocking(False)
        transport, protocol = await loop.connect_accepted_socket(Echo, conn)
        assert await roundtrip(client, b"x") == b"x"
        client.close()
        await asyncio.wait_for(protocol.lost, TIMEOUT)
        assert conn.fileno() == -1

    run(main())


def test_create_connection_to_a_server(run):
    class Client(asyncio.Protocol):
        def __init__(self):
            self.done = asyncio.get_running_loop().create_future()
            self.data = b""

        def connection_made(self, transport):
            transport.write(b"from the client")

        def data_received(self, data):
            self.data += data
            if len(self.data) == len(b"from the client"):
                self.done.set_result(None)

    async def main():
        loop = asyncio.get_running_loop()
        server, address = await start(Echo)
        transport, protocol = await loop.create_connection(Client, *address)
        await asyncio.wait_for(protocol.done, TIMEOUT)
        assert transport.get_extra_info("peername") == address
        transport.close()
        await stop(server)

    run(main())


def test_connection_refused(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.get_running_loop().create_connection(Echo, *address)

    run(main())


def test_loop_closed_with_an_open_server(new_loop):
    loop = new_loop()
    server, address = loop.run_until_complete(start(Echo))
    listener = server._sockets[0]
    loop.close()
    assert listener.fileno() != -1
    server.close()
    assert listener.fileno() == -1
    with socket.socket() as sock:
        assert sock.connect_ex(address) == errno.ECONNREFUSED


def test_debug_mode(new_loop):
    loop = new_loop()
    loop.set_debug(True)

    async def main():
        server, address = await start(Echo)
        sock = await connect(address)
        assert await roundtrip(sock, b"x") == b"x"
        sock.close()
        await stop(server)

    loop.run_until_complete(main())
    loop.close()
