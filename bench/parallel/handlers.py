"""What the strands do: `async def handler(count)` does `count` operations, with a way out of each.

They suspend with `asyncio.sleep(0)` only, so a thread without any loop can drive them by `send()`.
"""

from __future__ import annotations

import asyncio
import json

from bench.http import plain

STEPS = 1_000  # of arithmetic in one operation: some 50 us


def _arithmetic(steps: int = STEPS) -> int:
    value = 0
    for number in range(steps):
        value = (value * 31 + number) & 0xFFFFFFF
    return value


def dump(number: int) -> str:
    """What a small JSON handler makes."""
    return json.dumps({"id": number, "name": "item", "tags": ["a", "b"], "price": 1.5, "sold": False})


async def integers(count: int) -> None:
    """Integer arithmetic."""
    for _ in range(count):
        _arithmetic()
        await asyncio.sleep(0)


async def small_json(count: int) -> None:
    """A small object made and dumped as JSON."""
    for number in range(count):
        dump(number)
        await asyncio.sleep(0)


async def asgi(count: int) -> None:
    """The plain ASGI application, called as a server does it."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    for _ in range(count):
        sent.clear()
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "headers": []}
        await plain.app(scope, receive, send)
        if len(sent) != 2:
            raise RuntimeError("the application did not answer")
        await asyncio.sleep(0)


BY_NAME = {"integers": integers, "json": small_json, "asgi": asgi}
