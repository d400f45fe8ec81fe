"""An HTTP server of JSON: ``python -m bench.ioworker.server MODE BACKEND HANDLER``.

Modes: inline (sockets and handler in one thread), worker (sockets on a native worker, the handler
in the loop's thread), processes (two inline ones that share the port). Prints "port N" and serves
until SIGTERM. bench_io_worker (bench/c/io_worker.c) must be on the path.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import bench_io_worker
import pyloop

from bench.ioworker.handlers import HANDLERS

BACKLOG = 1024


class Inline(asyncio.Protocol):
    """Requests come one by one and whole, as from the load generator; others end the connection."""

    def __init__(self, handler):
        self.handler = handler

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(bench_io_worker.answer(data, self.handler))


async def serve(mode: str, handler, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if mode == "worker":
        bench_io_worker.serve(listener.detach(), handler)
        await stop.wait()
        return
    server = await loop.create_server(lambda: Inline(handler), sock=listener)
    await stop.wait()
    server.close()


def listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def main() -> None:
    mode, backend, handler = sys.argv[1:]
    listener = listen(0)
    port = listener.getsockname()[1]
    second = 0
    if mode == "processes":
        # Listening before the first client comes: SO_REUSEPORT divides by who listens at that time.
        other = listen(port)
        second = os.fork()
        (listener if second == 0 else other).close()
        listener = other if second == 0 else listener
    if second or mode != "processes":
        print("port", port, flush=True)
    with asyncio.Runner(loop_factory=lambda: pyloop.Loop(backend=backend)) as runner:
        runner.run(serve(mode, HANDLERS[handler], listener))
    if second:
        os.kill(second, signal.SIGTERM)
        os.waitpid(second, 0)


if __name__ == "__main__":
    main()
