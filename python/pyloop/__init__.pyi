import asyncio
from asyncio import DefaultEventLoopPolicy
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from os import PathLike
from typing import Any, TypeVar

from . import _core
from . import metrics as metrics
from . import native as native
from . import sync as sync
from ._core import ClientDisconnected as ClientDisconnected
from ._core import __version__ as __version__

_T = TypeVar("_T")
_Path = str | PathLike[str]

__all__ = (
    "ClientDisconnected",
    "Loop",
    "__version__",
    "get_include",
    "new_event_loop",
    "run",
    "serve",
    "spawn",
    "metrics",
    "native",
    "sync",
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
    "EventLoopPolicy",
    "install",
)

class Loop(asyncio.BaseEventLoop):
    def __init__(
        self,
        *,
        backend: str | None = None,
        native_tasks: bool = True,
        parallel: bool = False,
        workers: int | None = None,
        watchdog: float | None = None,
        switch_interval: float | None = None,
    ) -> None: ...
    def metrics(self) -> dict[str, Any]: ...
    @property
    def workers(self) -> int: ...
    @property
    def backend(self) -> str | None: ...
    @property
    def native_tasks(self) -> bool: ...

def get_include() -> str: ...
def new_event_loop(
    *,
    backend: str | None = None,
    native_tasks: bool = True,
    parallel: bool = False,
    workers: int | None = None,
    watchdog: float | None = None,
    switch_interval: float | None = None,
) -> Loop: ...
def spawn(
    coro: Coroutine[Any, Any, _T], *, name: object = None, context: Context | None = None
) -> _core.SpawnedTask[_T] | asyncio.Task[_T]: ...
def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    backend: str | None = None,
    native_tasks: bool = True,
    parallel: bool = False,
    workers: int | None = None,
    watchdog: float | None = None,
    switch_interval: float | None = None,
) -> _T: ...
async def serve(application: Callable[..., Any], **options: Any) -> None: ...
def install(*, streams: bool | None = None, sync: bool = False) -> None: ...

class StreamReader(_core.StreamReaderCore, asyncio.StreamReader): ...
class StreamReaderProtocol(_core.StreamProtocolCore, asyncio.StreamReaderProtocol): ...
class StreamWriter(_core.StreamWriterCore, asyncio.StreamWriter): ...

_Connected = Callable[[StreamReader, StreamWriter], Coroutine[Any, Any, None] | None]

async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = 65536, **kwds: Any
) -> tuple[StreamReader, StreamWriter]: ...
async def start_server(
    client_connected_cb: _Connected,
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    limit: int = 65536,
    **kwds: Any,
) -> asyncio.Server: ...
async def open_unix_connection(
    path: _Path | None = None, *, limit: int = 65536, **kwds: Any
) -> tuple[StreamReader, StreamWriter]: ...
async def start_unix_server(
    client_connected_cb: _Connected, path: _Path | None = None, *, limit: int = 65536, **kwds: Any
) -> asyncio.Server: ...

class EventLoopPolicy(DefaultEventLoopPolicy): ...
