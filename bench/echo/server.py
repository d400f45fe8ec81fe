"""A TCP echo server on one loop in one style: ``python -m bench.echo.server LOOP STYLE``.

Prints "port N" and serves until SIGTERM. Styles: protocol, buffered, streams, native-streams, sock.
"""

from __future__ import annotations

import asyncio
import signal
import socket
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


async def serve(style: str) -> None:
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    accepting = None
    if style == "protocol":
        await loop.create_server(EchoProtocol, sock=listener, backlog=BACKLOG)
    elif style == "buffered":
        await loop.create_server(BufferedEchoProtocol, sock=listener, backlog=BACKLOG)
    elif style == "streams":
        await asyncio.start_server(echo_streams, sock=listener, backlog=BACKLOG)
    elif style == "native-streams":
        await start_native_server(echo_streams, sock=listener, backlog=BACKLOG)
    elif style == "sock":
        accepting = loop.create_task(accept_sock(loop, listener))
    else:
        sys.exit(f"unknown style {style!r}")
    print("port", listener.getsockname()[1], flush=True)
    await stop.wait()
    if accepting is not None:
        accepting.cancel()


def main() -> None:
    loop_name, style = sys.argv[1:]
    loop = new_loop(loop_name)
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serve(style))


if __name__ == "__main__":
    main()
