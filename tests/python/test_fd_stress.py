"""Descriptor numbers are reused as fast as possible, by objects of every kind that close in the midst of things.

No number may be closed twice: everybody's files are checked to be the same ones that were opened. And nobody may
get what belongs to a former owner of his number: all data carries the mark of its object.
"""

import asyncio
import contextlib
import itertools
import os
import random
import socket
import threading

import pytest

TIMEOUT = 60
MARKS = itertools.count(1)


def mark():
    return b"%016d" % next(MARKS)


def identity(fd):
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class Stress:
    """Actors that each open, use and close something once; how, the seed decides."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.server = None
        self.address = None

    async def pause(self):
        """None, one or a few turns, so that ends fall on any moment."""
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 3))):
            await asyncio.sleep(0)

    async def cancelled_midway(self, awaitable):
        task = asyncio.ensure_future(awaitable)
        await self.pause()
        task.cancel()
        return await asyncio.gather(task, return_exceptions=True)

    async def echo(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await self.pause()
        writer.close()

    async def stream(self):
        reader, writer = await asyncio.open_connection(*self.address)
        mine = mark()
        inode = identity(writer.get_extra_info("socket").fileno())
        for _ in range(self.random.randrange(3)):
            writer.write(mine * 3)
            assert await reader.readexactly(3 * len(mine)) == mine * 3
        writer.write(mine)
        assert identity(writer.get_extra_info("socket").fileno()) == inode
        if self.random.random() < 0.5:
            writer.transport.abort()
        writer.close()
        if self.random.random() < 0.5:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def connect_and_give_up(self):
        result, = await self.cancelled_midway(asyncio.open_connection(*self.address))
        if not isinstance(result, BaseException):
            result[1].close()

    async def sock_calls(self):
        a, b = socket.socketpair()
        a.setblocking(False)
        b.setblocking(False)
        mine = mark()
        receiving = asyncio.ensure_future(self.loop.sock_recv(a, 100))
        await self.pause()
        way = self.random.randrange(4)
        if way == 0:
            await self.loop.sock_sendall(b, mine)
            assert await receiving == mine
        elif way == 1:
            # It may have been readable already: what was not returned is still there.
            b.send(mine)
            await self.pause()
            receiving.cancel()
            result, = await asyncio.gather(receiving, return_exceptions=True)
            if isinstance(result, asyncio.CancelledError):
                result = await self.loop.sock_recv(a, 100)
            assert result == mine
        elif way == 2:
            a.close()
            with contextlib.suppress(BrokenPipeError):  # the receiving had not begun
                b.send(mine)
            result, = await asyncio.gather(receiving, return_exceptions=True)
            assert result == mine or isinstance(result, OSError)
        else:
            receiving.cancel()
        a.close()
        b.close()
        await asyncio.gather(receiving, return_exceptions=True)

    async def watched_pipe(self):
        read, write = os.pipe()
        mine, got = mark(), self.loop.create_future()

        def readable():
            data = os.read(read, 100)
            assert data == mine
            if not got.done():
                got.set_result(data)

        self.loop.add_reader(read, readable)
        await self.pause()
        if self.random.random() < 0.7:
            os.write(write, mine)
            if self.random.random() < 0.7:
                await got
        assert self.loop.remove_reader(read) is True
        os.close(read)
        os.close(write)

    async def pipe_transports(self):
        class Reading(asyncio.Protocol):
            def __init__(self):
                self.data = b""
                self.lost = asyncio.get_running_loop().create_future()

            def data_received(self, data):
                self.data += data

            def connection_lost(self, exc):
                self.lost.set_result(exc)

        read, write = os.pipe()
        reader, protocol = await self.loop.connect_read_pipe(Reading, open(read, "rb", 0))
        writer, _ = await self.loop.connect_write_pipe(asyncio.BaseProtocol, open(write, "wb", 0))
        mine = mark()
        writer.write(mine)
        await self.pause()
        if self.random.random() < 0.5:
            writer.close()
            assert await protocol.lost is None
            assert protocol.data == mine
        else:
            reader.close()
            writer.abort()
            await protocol.lost

    async def datagrams(self):
        class Receiving(asyncio.DatagramProtocol):
            def __init__(self):
                self.got = asyncio.get_running_loop().create_future()

            def datagram_received(self, data, addr):
                self.got.set_result(data)

        a, protocol = await self.loop.create_datagram_endpoint(Receiving, ("127.0.0.1", 0))
        b, _ = await self.loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=a.get_extra_info("sockname"))
        mine = mark()
        b.sendto(mine)
        if self.random.random() < 0.5:
            assert await protocol.got == mine
        a.close()
        b.abort()

    async def child(self):
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        mine = mark()
        if self.random.random() < 0.3:
            process.kill()
        out, _ = await process.communicate(mine)
        assert out in (mine, b"") and await process.wait() in (0, -9)

    async def canary(self):
        """Does nothing but be there: whoever closes a number twice closes these."""
        fds = [*os.pipe(), *os.pipe()]
        before = [identity(fd) for fd in fds]
        for _ in range(self.random.randrange(10)):
            await asyncio.sleep(0)
        assert [identity(fd) for fd in fds] == before
        for fd in fds:
            os.close(fd)

    async def main(self, count, limit=20):
        self.server = await asyncio.start_server(self.echo, "127.0.0.1", 0)
        self.address = self.server.sockets[0].getsockname()
        kinds = [self.stream, self.connect_and_give_up, self.sock_calls, self.sock_calls, self.watched_pipe,
                 self.watched_pipe, self.pipe_transports, self.datagrams, self.canary, self.canary]
        running = set()
        for number in range(count):
            kind = self.child if number % 100 == 50 else self.random.choice(kinds)
            running.add(asyncio.ensure_future(kind()))
            if len(running) >= limit:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*running)
        self.server.close()


@contextlib.contextmanager
def churning_thread():
    """Takes and gives back numbers without pause, and looks whether its files stay its own."""
    stop, failures = threading.Event(), []

    def work():
        while not stop.is_set():
            read, write = os.pipe()
            mine = mark()
            os.write(write, mine)
            try:
                if os.read(read, 100) != mine:
                    failures.append("somebody else's data")
                os.close(read)
                os.close(write)
            except OSError as error:
                failures.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failures == []


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_reused_by_everybody(run, seed):
    before = len(os.listdir("/proc/self/fd"))
    with churning_thread():
        async def main():
            await asyncio.wait_for(Stress(seed).main(1000), TIMEOUT)

        run(main())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("seed", range(3))
def test_cancelled_calls_lose_no_byte(run, seed):
    """sock_recv() and sock_sendall() cancelled at any moment: the stream has neither gap nor repetition."""
    choose = random.Random(seed)
    whole = bytes(range(251)) * 2000

    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        a.setblocking(False)
        b.setblocking(False)
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        got = bytearray()

        async def attempt(awaitable):
            task = asyncio.ensure_future(awaitable)
            for _ in range(choose.randrange(4)):
                await asyncio.sleep(0)
            if choose.random() < 0.5:
                task.cancel()
            result, = await asyncio.gather(task, return_exceptions=True)
            return result

        async def receive():
            while len(got) < len(whole):
                result = await attempt(loop.sock_recv(b, choose.randrange(1, 5000)))
                if not isinstance(result, asyncio.CancelledError):
                    got.extend(result)

        receiving = asyncio.ensure_future(receive())
        sent = 0
        while sent < len(whole):
            piece = whole[sent:sent + choose.randrange(1, 700)]
            if isinstance(await attempt(loop.sock_sendall(a, piece)), asyncio.CancelledError):
                # How much of it went is known by what arrives: nothing that was not sent, nothing twice.
                while True:
                    so_far = len(got)
                    for _ in range(8):
                        await asyncio.sleep(0)
                    if len(got) == so_far and so_far >= sent:
                        break
                assert sent <= len(got) <= sent + len(piece)
                sent = len(got)
            else:
                sent += len(piece)
        await receiving
        assert got == whole
        a.close()
        b.close()

    run(asyncio.wait_for(main(), TIMEOUT))
