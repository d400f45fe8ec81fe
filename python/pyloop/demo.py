"""A small application to try the server with: `python -m pyloop.run pyloop.demo:app`.

FastAPI if it is installed, plain ASGI otherwise; both have the same routes:

GET  /         text                 GET  /json     a JSON object
GET  /stream   text in ten pieces   POST /echo     sends the content back as it arrives
POST /upload   size and SHA-256 of the content
"""

import asyncio
import hashlib
import json

PIECES = 10
_HELLO = "Hello from pyloop!\n"


async def _pieces():
    for number in range(PIECES):
        yield f"piece {number}\n".encode()
        await asyncio.sleep(0.05)


def _fastapi_app():
    from fastapi import FastAPI, Request
    from fastapi.responses import PlainTextResponse, StreamingResponse

    app = FastAPI(title="pyloop demo")

    @app.get("/", response_class=PlainTextResponse)
    async def hello():
        return _HELLO

    @app.get("/json")
    async def as_json():
        return {"message": "Hello from pyloop!", "framework": "FastAPI"}

    @app.get("/stream")
    async def stream():
        return StreamingResponse(_pieces(), media_type="text/plain")

    @app.post("/echo")
    async def echo(request: Request):
        media_type = request.headers.get("content-type", "application/octet-stream")
        return StreamingResponse(request.stream(), media_type=media_type)

    @app.post("/upload")
    async def upload(request: Request):
        size, digest = 0, hashlib.sha256()
        async for piece in request.stream():
            size += len(piece)
            digest.update(piece)
        return {"size": size, "sha256": digest.hexdigest()}

    return app


class _PlainApp:
    """The same without a framework: what the ASGI messages look like."""

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        handler = {
            ("GET", "/"): self._hello, ("HEAD", "/"): self._hello, ("GET", "/json"): self._json,
            ("GET", "/stream"): self._stream, ("POST", "/echo"): self._echo, ("POST", "/upload"): self._upload,
        }.get((scope["method"], scope["path"]), self._not_found)  # fmt: skip
        await handler(scope, receive, send)

    async def _lifespan(self, receive, send):
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _answer(self, send, body, media_type=b"text/plain; charset=utf-8", status=200):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", media_type)]})
        await send({"type": "http.response.body", "body": body})

    async def _hello(self, scope, receive, send):
        await self._answer(send, _HELLO.encode())

    async def _json(self, scope, receive, send):
        body = json.dumps({"message": "Hello from pyloop!", "framework": "none"}).encode()
        await self._answer(send, body, b"application/json")

    async def _stream(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        async for piece in _pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async def _echo(self, scope, receive, send):
        media_type = dict(scope["headers"]).get(b"content-type", b"application/octet-stream")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    async def _upload(self, scope, receive, send):
        size, digest, more = 0, hashlib.sha256(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            digest.update(message["body"])
            more = message["more_body"]
        body = json.dumps({"size": size, "sha256": digest.hexdigest()}).encode()
        await self._answer(send, body, b"application/json")

    async def _not_found(self, scope, receive, send):
        await self._answer(send, b"Not Found\n", status=404)


try:
    app = _fastapi_app()
except ImportError:
    app = _PlainApp()
