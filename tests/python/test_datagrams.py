"""create_datagram_endpoint(): UDP and Unix datagrams."""

import asyncio
import socket
import sys

import pytest

TIMEOUT = 20
LOCAL = ("127.0.0.1", 0)


class Recorder(asyncio.DatagramProtocol):
    def __init__(self):
        self.got = asyncio.Queue()
        self.errors = asyncio.Queue()
        self.flow = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.got.put_nowait((data, addr))

    def error_received(self, exc):
        self.errors.put_nowait(exc)

    def pause_writing(self):
        self.flow.append("pause")

    def resume_writing(self):
        self.flow.append("resume")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def endpoint(*args, **kwargs):
    return await asyncio.get_running_loop().create_datagram_endpoint(Recorder, *args, **kwargs)


async def next_of(queue):
    return await asyncio.wait_for(queue.get(), TIMEOUT)


async def end(*endpoints):
    for transport, protocol in endpoints:
        transport.close()
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None


@pytest.mark.parametrize("address", [LOCAL, ("::1", 0)])
def test_bound_and_connected(run, address):
    async def main():
        a, a_protocol = await endpoint(address)
        a_name = a.get_extra_info("sockname")
        b, b_protocol = await endpoint(remote_addr=a_name[:2])
        b.sendto(b"one")
        data, source = await next_of(a_protocol.got)
        assert data == b"one" and source == b.get_extra_info("sockname")
        assert b.get_extra_info("peername") == a_name
        a.sendto(bytearray(b"two"), source)
        a.sendto(memoryview(b"three"), source)
        assert await next_of(b_protocol.got) == (b"two", a_name)
        assert await next_of(b_protocol.got) == (b"three", a_name)
        b.sendto(b"x" * 60_000, a_name)
        assert len((await next_of(a_protocol.got))[0]) == 60_000
        with pytest.raises(ValueError):
            b.sendto(b"elsewhere", ("127.0.0.1", 9))
        with pytest.raises(TypeError):
            a.sendto("text", source)
        await end((a, a_protocol), (b, b_protocol))

    run(main())


def test_zero_length(run):
    """It arrives, and from 3.13 on it can be sent; before, asyncio leaves it out."""
    async def main():
        a = await endpoint(LOCAL)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(LOCAL)
            sock.sendto(b"", a[0].get_extra_info("sockname"))
            assert await next_of(a[1].got) == (b"", sock.getsockname())
            if sys.version_info >= (3, 13):
                a[0].sendto(b"", sock.getsockname())
                await asyncio.sleep(0)
                sock.settimeout(TIMEOUT)
                assert sock.recvfrom(10) == (b"", a[0].get_extra_info("sockname"))
        await end(a)

    run(main())


def test_refused_is_reported_and_not_fatal(run):
    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(LOCAL)
            nobody = sock.getsockname()
        a, protocol = await endpoint(remote_addr=nobody)
        a.sendto(b"x")
        assert isinstance(await next_of(protocol.errors), ConnectionRefusedError)
        assert not a.is_closing()
        await end((a, protocol))

    run(main())


def test_unix_flow_control(run, tmp_path, monkeypatch):
    """A full receiver: the sender's protocol is paused, nothing is lost, then it goes on."""
    monkeypatch.chdir(tmp_path)

    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.setblocking(False)
            receiver.bind("receiver")
            a, protocol = await endpoint(remote_addr="receiver", family=socket.AF_UNIX)
            a.set_write_buffer_limits(high=50_000)
            sent = 0
            while protocol.flow != ["pause"]:
                a.sendto(b"%8d" % sent * 1000)
                sent += 1
            for number in range(sent):
                assert await loop.sock_recv(receiver, 10_000) == b"%8d" % number * 1000
            while a.get_write_buffer_size():
                await asyncio.sleep(0)
            assert protocol.flow == ["pause", "resume"]
            await end((a, protocol))

    run(asyncio.wait_for(main(), TIMEOUT))


@pytest.mark.parametrize("method", ["close", "abort"])
def test_close_sends_what_is_queued_and_abort_does_not(run, tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)

    async def main():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.setblocking(False)
            receiver.bind("receiver")
            a, protocol = await endpoint(remote_addr="receiver", family=socket.AF_UNIX)
            sent = 0
            while not a.get_write_buffer_size():
                a.sendto(b"x")
                sent += 1
            for _ in range(9):
                a.sendto(b"x")
                sent += 1
            getattr(a, method)()
            assert a.is_closing()
            got = b""
            while True:
                try:
                    got += receiver.recv(10)
                except BlockingIOError:
                    if protocol.lost.done():
                        break
                    await asyncio.sleep(0)
            assert len(got) == (sent if method == "close" else sent - 10)

    run(asyncio.wait_for(main(), TIMEOUT))


@pytest.mark.parametrize("arguments, error", [
    ({}, ValueError),
    ({"local_addr": "path"}, TypeError),
    ({"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 9)}, ValueError),
    ({"local_addr": ("127.0.0.1",)}, TypeError),
    ({"local_addr": 5, "family": socket.AF_UNIX}, TypeError),
    ({"sock": socket.SOCK_STREAM}, ValueError),
])
def test_bad_arguments(run, arguments, error):
    async def main(loop):
        with socket.socket() as sock:
            given = {**arguments, "sock": sock} if "sock" in arguments else arguments
            with pytest.raises(error):
                await loop.create_datagram_endpoint(Recorder, **given)

    async def ours():
        await main(asyncio.get_running_loop())

    asyncio.run(ours())
    run(ours())


def test_options_and_given_socket(run):
    async def main():
        a = await endpoint(LOCAL, reuse_port=True, allow_broadcast=True)
        sock = a[0].get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        again = await endpoint(sock.getsockname(), reuse_port=True)
        mine = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        mine.bind(LOCAL)
        b = await endpoint(sock=mine)
        b[0].sendto(b"hello", mine.getsockname())
        assert await next_of(b[1].got) == (b"hello", mine.getsockname())
        await end(a, again, b)
        assert mine.fileno() == -1

    run(main())


def test_largest_datagrams_arrive_whole(run, tmp_path):
    async def main():
        a, a_protocol = await endpoint(LOCAL)
        b, b_protocol = await endpoint(remote_addr=a.get_extra_info("sockname"))
        b.sendto(b"x" * 65_507)
        assert len((await next_of(a_protocol.got))[0]) == 65_507
        await end((a, a_protocol), (b, b_protocol))
        path = str(tmp_path / "socket")
        a, a_protocol = await endpoint(path, family=socket.AF_UNIX)
        b, b_protocol = await endpoint(remote_addr=path, family=socket.AF_UNIX)
        b.sendto(b"x" * 150_000)
        assert len((await next_of(a_protocol.got))[0]) == 150_000
        await end((a, a_protocol), (b, b_protocol))

    run(main())
