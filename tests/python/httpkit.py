"""Serves an application on the running loop and talks to it in raw bytes.

    async with Serving(app) as server:
        client = await server.connect()
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        response = await client.response()
"""

import asyncio
import contextlib
import dataclasses
import socket

from pyloop import _core

TIMEOUT = 20  # of anything that should happen soon


def get(path="/", *fields, version="1.1", method="GET"):
    lines = [f"{method} {path} HTTP/{version}", "Host: a", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body, *fields, path="/"):
    return get(path, f"Content-Length: {len(body)}", *fields, method="POST") + body


@dataclasses.dataclass
class Response:
    status: int
    reason: str
    headers: list
    body: bytes = b""

    def header(self, name):
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None


class Client:
    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def write(self, data):
        self.writer.write(data)

    async def head(self):
        data = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), TIMEOUT)
        first, *lines = data[:-4].decode("latin-1").split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = [tuple(line.split(": ", 1)) for line in lines]
        assert all(name == name.lower() for name, _ in headers)
        return Response(int(status), reason, headers)

    async def chunk(self):
        """The next chunk; b"" is the last."""
        size = int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), TIMEOUT), 16)
        data = await asyncio.wait_for(self.reader.readexactly(size + 2), TIMEOUT)
        assert data[-2:] == b"\r\n"
        return data[:-2]

    async def response(self, is_head=False):
        response = await self.head()
        if is_head or response.status in (204, 304) or response.status < 200:
            return response
        length = response.header("content-length")
        if response.header("transfer-encoding") == "chunked":
            assert length is None
            while chunk := await self.chunk():
                response.body += chunk
        elif length is not None:
            response.body = await asyncio.wait_for(self.reader.readexactly(int(length)), TIMEOUT)
        else:
            response.body = await self.rest()
        return response

    async def rest(self):
        """Everything until the server closes."""
        return await asyncio.wait_for(self.reader.read(), TIMEOUT)

    async def fetch(self, data, is_head=False):
        self.write(data)
        return await self.response(is_head)

    async def close(self):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def abort(self):
        self.writer.transport.abort()


class Serving:
    """`errors` collects what the server reports as (message, exception); at the end it must be empty."""

    def __init__(self, app, *, sock=None, **options):
        self._app = app
        self._options = options
        self._sock = sock
        self._clients = []
        self.errors = []
        self.http = None
        self.address = None

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        if self._sock is None:
            self._sock = socket.socket()
            self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(512)
        self._sock.setblocking(False)
        self.address = self._sock.getsockname()
        self.http = _core.HttpServer(loop, self._app, lambda *what: self.errors.append(what), **self._options)
        self.http.listen(self._sock)
        return self

    async def connect(self):
        if isinstance(self.address, tuple):
            client = Client(*await asyncio.open_connection(*self.address[:2]))
        else:
            client = Client(*await asyncio.open_unix_connection(self.address))
        self._clients.append(client)
        return client

    async def fetch(self, data, is_head=False):
        """One request on a connection of its own."""
        client = await self.connect()
        response = await client.fetch(data, is_head)
        await client.close()
        return response

    async def exchange(self, data):
        """Sends bytes and returns everything until the server closes."""
        client = await self.connect()
        client.write(data)
        return await client.rest()

    async def __aexit__(self, kind, error, traceback):
        for client in self._clients:
            await client.close()
        self.http.drain()
        if kind is not None:
            self.http.cancel()
            self.http.abort()
        await asyncio.wait_for(self.http.wait_drained(), TIMEOUT)
        assert self.http.connections == 0
        assert self.http.tasks == 0
        if kind is None:
            assert self.errors == []


def respond(body=b"ok", status=200, headers=()):
    """An application that answers each request alike."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body})

    return app


def stuck(ended):
    """An application that never ends by itself, with "/started" in the middle of its response; notes the path then."""

    async def app(scope, receive, send):
        try:
            if scope["path"] == "/started":
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await asyncio.sleep(100)
        finally:
            ended.append(scope["path"])

    return app


async def echo(scope, receive, send):
    """Sends the content back as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


async def read_body(receive):
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        if not message["more_body"]:
            return body


async def until(condition):
    """Lets the loop turn until something is true; fails instead of hanging."""

    async def poll():
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), TIMEOUT)
