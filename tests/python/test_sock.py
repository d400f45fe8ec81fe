"""loop.sock_*()."""

import asyncio
import gc
import os
import socket
import tempfile

import pytest

TIMEOUT = 10


def listening(family=socket.AF_INET, address=("127.0.0.1", 0), backlog=10):
    sock = socket.socket(family)
    sock.setblocking(False)
    sock.bind(address)
    sock.listen(backlog)
    return sock


async def waiting(awaitable):
    """A task of it that has begun to wait."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    return task


def test_recv(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = pair
        b.send(b"one")
        assert await loop.sock_recv(a, 100) == b"one"
        task = await waiting(loop.sock_recv(a, 100))
        b.send(b"two")
        assert await task == b"two"
        buffer = bytearray(10)
        task = await waiting(loop.sock_recv_into(a, buffer))
        b.send(b"three")
        assert await task == 5 and buffer[:5] == b"three"
        task = await waiting(loop.sock_recv(a, 100))
        b.close()
        assert await task == b""

    run(main())


def test_accept_connect_and_sendall(run):
    async def main():
        loop = asyncio.get_running_loop()
        listener = listening()
        accepting = await waiting(loop.sock_accept(listener))
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        server, address = await accepting
        assert address == client.getsockname() and server.gettimeout() == 0
        data = os.urandom(5_000_000)
        sending = asyncio.ensure_future(loop.sock_sendall(client, memoryview(data)))
        got = bytearray()
        while len(got) < len(data):
            got += await asyncio.wait_for(loop.sock_recv(server, 1 << 20), TIMEOUT)
        assert await sending is None and got == data
        for sock in (listener, client, server):
            sock.close()

    run(main())


def test_connect_errors(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        sock = socket.socket()
        sock.setblocking(False)
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_connect(sock, address)
        sock.close()
        with pytest.raises(OSError):
            await loop.sock_connect(sock, address)

    run(main())


def test_unix_connect_waits_for_a_full_backlog(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        loop = asyncio.get_running_loop()
        listener = listening(socket.AF_UNIX, "listener", backlog=0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for client in clients:
            client.setblocking(False)
        tasks = [asyncio.ensure_future(loop.sock_connect(client, "listener")) for client in clients]
        await asyncio.sleep(0.01)
        assert not all(task.done() for task in tasks)
        servers = []
        for _ in clients:
            server, _ = await asyncio.wait_for(loop.sock_accept(listener), TIMEOUT)
            servers.append(server)
        await asyncio.gather(*tasks)
        for client in clients:
            assert client.getpeername() == "listener"
        for sock in [listener, *clients, *servers]:
            sock.close()

    run(main())


def test_datagrams(run):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        for sock in (a, b):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        receiving = await waiting(loop.sock_recvfrom(a, 100))
        assert await loop.sock_sendto(b, b"hello", a.getsockname()) == 5
        assert await receiving == (b"hello", b.getsockname())
        buffer = bytearray(100)
        receiving = await waiting(loop.sock_recvfrom_into(a, buffer))
        await loop.sock_sendto(b, b"world", a.getsockname())
        assert await receiving == (5, b.getsockname()) and buffer[:5] == b"world"
        a.close()
        b.close()

    run(main())


def test_cancellation_leaves_nothing(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = pair
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(20):
            task = await waiting(loop.sock_recv(a, 10))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert set(os.listdir("/proc/self/fd")) == before
        b.send(b"x")
        await asyncio.sleep(0.01)
        assert await loop.sock_recv(a, 10) == b"x"
        loop.add_reader(a, print)  # nothing else is registered
        assert loop.remove_reader(a)

    run(main())


def test_descriptor_is_reused_after_cancellation(run):
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(30):
            a, b = socket.socketpair()
            a.setblocking(False)
            number = a.fileno()
            task = await waiting(loop.sock_recv(a, 10))
            task.cancel()
            await asyncio.sleep(0)
            a.close()
            b.close()
            c, d = socket.socketpair()
            assert number in (c.fileno(), d.fileno())
            c.setblocking(False)
            task = await waiting(loop.sock_recv(c, 10))
            d.send(b"y")
            assert await asyncio.wait_for(task, TIMEOUT) == b"y"
            c.close()
            d.close()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)
                raise asyncio.CancelledError

    run(main())


def test_two_waits_on_one_socket(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = pair
        first = await waiting(loop.sock_recv(a, 1))
        second = await waiting(loop.sock_recv(a, 1))
        b.send(b"xy")
        got = await asyncio.wait_for(asyncio.gather(first, second), TIMEOUT)
        assert sorted(got) == [b"x", b"y"]

    run(main())


def test_reading_and_writing_at_once(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = pair
        data = os.urandom(2_000_000)

        async def both(sock):
            sending = asyncio.ensure_future(loop.sock_sendall(sock, data))
            got = bytearray()
            while len(got) < len(data):
                got += await loop.sock_recv(sock, 1 << 18)
            await sending
            return got

        results = await asyncio.wait_for(asyncio.gather(both(a), both(b)), TIMEOUT)
        assert results == [data, data]

    run(main())


def test_socket_closed_during_a_wait(run):
    """The number is not given to anybody else before the wait is over."""
    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        a.setblocking(False)
        number = a.fileno()
        task = await waiting(loop.sock_recv(a, 10))
        a.close()
        others = [os.dup(b.fileno()) for _ in range(5)]
        assert number not in others
        b.send(b"x")
        with pytest.raises(OSError):
            await asyncio.wait_for(task, TIMEOUT)
        others.append(os.dup(b.fileno()))
        assert number in others
        for fd in others:
            os.close(fd)
        b.close()

    run(main())


def test_debug_wants_non_blocking_sockets(new_loop):
    loop = new_loop()
    loop.set_debug(True)
    a, b = socket.socketpair()
    for coro in (loop.sock_recv(a, 1), loop.sock_recv_into(a, bytearray(1)),
                 loop.sock_recvfrom(a, 1), loop.sock_recvfrom_into(a, bytearray(1)),
                 loop.sock_sendall(a, b"x"), loop.sock_sendto(a, b"x", "y"),
                 loop.sock_connect(a, "x"), loop.sock_accept(a)):
        with pytest.raises(ValueError, match="^the socket must be non-blocking$"):
            loop.run_until_complete(coro)
    a.close()
    b.close()


def test_transports_socket_is_refused(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = pair
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=a)
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(a, 10)
        transport.abort()
        await asyncio.sleep(0.01)

    run(main())


def test_sendfile(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = pair
        with tempfile.TemporaryFile() as file:
            data = os.urandom(300_000)
            file.write(data)
            file.flush()
            sending = asyncio.ensure_future(loop.sock_sendfile(a, file, 1000))
            got = bytearray()
            while len(got) < len(data) - 1000:
                got += await asyncio.wait_for(loop.sock_recv(b, 1 << 16), TIMEOUT)
            assert await sending == len(data) - 1000
            assert got == data[1000:]

    run(main())


def test_no_cycles_are_left(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = pair
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                task = await waiting(loop.sock_recv(a, 10))
                b.send(b"x")
                await task
            del task
            assert gc.collect() == 0
        finally:
            gc.enable()

    run(main())


def test_loop_closed_with_a_pending_wait(new_loop, pair):
    loop = new_loop()

    async def main():
        task = await waiting(loop.sock_recv(pair[0], 10))
        return task

    task = loop.run_until_complete(main())
    loop.close()
    task._log_destroy_pending = False
    del task
    gc.collect()
