"""What the tests of transports share: a protocol that writes down, and connected pairs."""

import asyncio
import socket

TIMEOUT = 20


class Recorder(asyncio.Protocol):
    """Writes down every call, and lets a test wait for one."""

    def __init__(self):
        self.calls = []
        self.data = bytearray()
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()
        self._waiters = []

    def note(self, name, *args):
        self.calls.append((name, *args))
        for name_wanted, waiter in list(self._waiters):
            if name_wanted == name and not waiter.done():
                waiter.set_result(None)

    def names(self):
        return [call[0] for call in self.calls]

    async def until(self, name):
        if name not in self.names():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((name, waiter))
            await asyncio.wait_for(waiter, TIMEOUT)

    async def until_received(self, count):
        async with asyncio.timeout(TIMEOUT):
            while len(self.data) < count:
                await asyncio.sleep(0)

    def connection_made(self, transport):
        self.transport = transport
        self.note("connection_made")

    def data_received(self, data):
        self.data += data
        self.note("data_received", type(data))

    def eof_received(self):
        self.note("eof_received")

    def pause_writing(self):
        self.note("pause_writing")

    def resume_writing(self):
        self.note("resume_writing")

    def connection_lost(self, exc):
        self.note("connection_lost", exc)
        self.lost.set_result(exc)


async def open_pair(protocol_class=Recorder):
    """A transport with its protocol, and the blocking-mode-off socket at the other end."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, protocol = await loop.create_connection(protocol_class, sock=ours)
    return transport, protocol, theirs


async def open_tcp_pair(protocol_class=Recorder):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    peer.setblocking(False)
    transport, protocol = await loop.create_connection(protocol_class, sock=client)
    return transport, protocol, peer


async def read_exactly(sock, count):
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        chunk = await asyncio.wait_for(loop.sock_recv(sock, 1 << 16), TIMEOUT)
        assert chunk, f"end of stream after {len(data)} of {count} bytes"
        data += chunk
    return bytes(data)


async def finish(transport, protocol, *socks):
    transport.abort()
    await asyncio.wait_for(asyncio.shield(protocol.lost), TIMEOUT)
    for sock in socks:
        sock.close()
