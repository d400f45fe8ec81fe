import asyncio
from typing import Any

__all__ = ("call",)

def call(function: Any, argument: Any = None, /, *, check: bool = True) -> asyncio.Future[int]: ...
