import asyncio
from asyncio import DefaultEventLoopPolicy
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ._core import ClientDisconnected as ClientDisconnected
from ._core import __version__ as __version__

_T = TypeVar("_T")

__all__ = (
    "ClientDisconnected",
    "Loop",
    "__version__",
    "new_event_loop",
    "run",
    "serve",
    "EventLoopPolicy",
    "install",
)

class Loop(asyncio.BaseEventLoop):
    def __init__(self, *, backend: str | None = None, native_tasks: bool = True) -> None: ...
    @property
    def backend(self) -> str | None: ...
    @property
    def native_tasks(self) -> bool: ...

def new_event_loop(*, backend: str | None = None, native_tasks: bool = True) -> Loop: ...
def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    backend: str | None = None,
    native_tasks: bool = True,
) -> _T: ...
async def serve(application: Callable[..., Any], **options: Any) -> None: ...
def install() -> None: ...

class EventLoopPolicy(DefaultEventLoopPolicy): ...
