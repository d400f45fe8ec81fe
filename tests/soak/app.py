"""The application that the soak test serves: small answers, streams, uploads, and its own usage."""

import json
import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import usage  # noqa: E402

CHUNK = b"c" * 16384


async def answer(send, body, status=200):
    await send({"type": "http.response.start", "status": status,
                "headers": [(b"content-type", b"application/octet-stream"),
                            (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def receive_all(receive):
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return size
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    return size


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
    elif scope["path"] == "/usage":
        await answer(send, json.dumps(usage.take()).encode())
    elif scope["path"] == "/upload":
        await answer(send, str(await receive_all(receive)).encode())
    elif scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(8):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    elif scope["path"] == "/raise":
        raise RuntimeError("on purpose")
    else:
        await answer(send, b"Hello, world!")
