"""A real server on one loop: ``python -m bench.servers.programs LOOP aiohttp|websockets``.

Prints "port N" and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

from bench.common import new_loop

BODY = "Hello, world!"


async def serve_aiohttp(sock: socket.socket):
    from aiohttp import web

    async def hello(request):
        return web.Response(text=BODY)

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    return runner.cleanup


async def serve_websockets(sock: socket.socket):
    from websockets.asyncio.server import serve

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    server = await serve(echo, sock=sock, compression=None)

    async def stop():
        server.close()
        await server.wait_closed()

    return stop


async def main(kind: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    sock = socket.create_server(("127.0.0.1", 0), backlog=2048)
    stop = await {"aiohttp": serve_aiohttp, "websockets": serve_websockets}[kind](sock)
    print("port", sock.getsockname()[1], flush=True)
    await stopped.wait()
    await stop()


if __name__ == "__main__":
    loop = new_loop(sys.argv[1])
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main(sys.argv[2]))
    loop.close()
