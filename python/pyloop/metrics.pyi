from collections.abc import Iterable
from typing import Any, Final

__all__ = ("CONTENT_TYPE", "prometheus", "snapshot")

CONTENT_TYPE: Final[str]

def snapshot() -> list[dict[str, Any]]: ...
def prometheus(loops: Iterable[dict[str, Any]] | None = None) -> str: ...
