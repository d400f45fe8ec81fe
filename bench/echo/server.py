"""An echo server on one loop in one style: ``python -m bench.echo.server LOOP STYLE [PLACE]``.

Prints "port N" (0: none) and serves until SIGTERM. Over TCP: protocol, buffered, streams,
native-streams, sock; tls (PLACE: the folder of cert.pem and key.pem). Else: udp; unix (PLACE: the
socket's path); pipe (PLACE: inherited descriptors, READ:WRITE,...).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys

from bench.common import new_loop

BACKLOG = 4096
READ_BYTES = 256 * 1024
SOCK_READ_BYTES = 100 * 1024
"""sock_recv allocates this much each time; above 128 KiB glibc maps and unmaps it every time,
which is also what asyncio's own transports pay (they read up to 256 KiB)."""


class EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class PipeEcho(asyncio.Protocol):
    """Reads from one pipe, writes to another."""

    def __init__(self, out):
        self.out = out

    def data_received(self, data):
        self.out.write(data)


class BufferedEchoProtocol(asyncio.BufferedProtocol):
    # One buffer for all connections: it is emptied before the next read can begin, and an idle
    # connection then owns none.
    buffer = memoryview(bytearray(READ_BYTES))

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        # A copy, because a transport may keep what it could not send at once.
        self.transport.write(bytes(self.buffer[:count]))


async def echo_streams(reader, writer):
    try:
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def echo_sock(loop, connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            while data := await loop.sock_recv(connection, SOCK_READ_BYTES):
                await loop.sock_sendall(connection, data)
        except ConnectionError:
            pass


async def accept_sock(loop, listener):
    tasks = set()
    while True:
        connection, _ = await loop.sock_accept(listener)
        connection.setblocking(False)
        task = loop.create_task(echo_sock(loop, connection))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def start_native_server(handler, **options):
    """The streams that come with the loop: pyloop's on pyloop, asyncio's on the others."""
    if type(asyncio.get_running_loop()).__module__.startswith("pyloop"):
        import pyloop

        return await pyloop.start_server(handler, **options)
    return await asyncio.start_server(handler, **options)


def tls_context(folder: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
    return context


async def serve_tcp(loop, style: str, place: str):
    """Returns the port and what must live as long as the server."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    where = {"sock": listener, "backlog": BACKLOG}
    if style == "protocol":
        return port, await loop.create_server(EchoProtocol, **where)
    if style == "tls":
        return port, await loop.create_server(EchoProtocol, ssl=tls_context(place), **where)
    if style == "buffered":
        return port, await loop.create_server(BufferedEchoProtocol, **where)
    if style == "streams":
        return port, await asyncio.start_server(echo_streams, **where)
    if style == "native-streams":
        return port, await start_native_server(echo_streams, **where)
    if style == "sock":
        return port, loop.create_task(accept_sock(loop, listener))
    sys.exit(f"unknown style {style!r}")


async def serve_pipes(loop, pairs: str):
    transports = []
    for pair in pairs.split(","):
        read_fd, write_fd = map(int, pair.split(":"))
        writing = os.fdopen(write_fd, "wb", 0)
        out, _ = await loop.connect_write_pipe(asyncio.Protocol, writing)
        reading = os.fdopen(read_fd, "rb", 0)
        transports.append(await loop.connect_read_pipe(lambda out=out: PipeEcho(out), reading))
    return transports


async def serve(style: str, place: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    port = 0
    if style == "udp":
        serving, _ = await loop.create_datagram_endpoint(DatagramEcho, ("127.0.0.1", 0))
        port = serving.get_extra_info("sockname")[1]
    elif style == "unix":
        serving = await loop.create_unix_server(EchoProtocol, place, backlog=BACKLOG)
    elif style == "pipe":
        serving = await serve_pipes(loop, place)
    else:
        port, serving = await serve_tcp(loop, style, place)
    print("port", port, flush=True)
    await stop.wait()
    if isinstance(serving, asyncio.Future):
        serving.cancel()


def main() -> None:
    loop_name, style, *place = sys.argv[1:]
    loop = new_loop(loop_name)
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serve(style, *place or [""]))


if __name__ == "__main__":
    main()
