"""The smallest ASGI application with a neighbour in its process."""

from bench.http.plain import app
from bench.neighbour import spin

__all__ = ["app"]

spin.start()
