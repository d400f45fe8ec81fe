"""What the server of bench/ioworker does for a request, in Python: path to body."""

from __future__ import annotations

import json

LARGE_ITEMS = 150


def small(path: str) -> bytes:
    """Some 2 µs of Python."""
    return json.dumps({"message": "Hello, world!", "path": path}).encode()


def large(path: str) -> bytes:
    """Some 400 µs of Python, 11 KB."""
    items = [{"id": number, "name": f"item {number}", "price": number * 1.5, "tags": ["a", "b"]}
             for number in range(LARGE_ITEMS)]  # fmt: skip
    return json.dumps({"path": path, "items": items}).encode()


HANDLERS = {"small": small, "large": large}
