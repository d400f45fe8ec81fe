"""gunicorn worker classes that run on a pyloop loop.

    gunicorn app:app -k pyloop.workers.UvicornWorker    # the package uvicorn-worker (or uvicorn < 0.36's own)
    gunicorn app:app -k pyloop.workers.ASGIWorker       # gunicorn's own ASGI worker (gunicorn >= 24)
    gunicorn app:app -k pyloop.workers.AiohttpWorker    # aiohttp.web applications

Each class is made when it is asked for, so only the packages it needs must be installed.
"""

import asyncio

import pyloop

__all__ = ["ASGIWorker", "AiohttpWorker", "UvicornWorker"]


def _uvicorn_worker():
    try:
        from uvicorn_worker import UvicornWorker as Base
    except ImportError:
        from uvicorn.workers import UvicornWorker as Base

    class UvicornWorker(Base):
        """uvicorn under gunicorn, on pyloop."""

        CONFIG_KWARGS = {**Base.CONFIG_KWARGS, "loop": "pyloop:new_event_loop"}

    return UvicornWorker


def _asgi_worker():
    from gunicorn.workers.gasgi import ASGIWorker as Base

    class ASGIWorker(Base):
        """gunicorn's native ASGI worker, on pyloop; --asgi-loop is not consulted."""

        def _setup_event_loop(self):
            self.loop = pyloop.new_event_loop()
            asyncio.set_event_loop(self.loop)

    return ASGIWorker


def _aiohttp_worker():
    from aiohttp.worker import GunicornWebWorker as Base

    class AiohttpWorker(Base):
        """aiohttp.web under gunicorn, on pyloop."""

        def init_process(self):
            self.loop = pyloop.new_event_loop()
            asyncio.set_event_loop(self.loop)
            # The base class makes a loop of its own here; everything above it does not.
            super(Base, self).init_process()

    return AiohttpWorker


_MAKERS = {"UvicornWorker": _uvicorn_worker, "ASGIWorker": _asgi_worker, "AiohttpWorker": _aiohttp_worker}


def __getattr__(name):
    maker = _MAKERS.get(name)
    if maker is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    worker = maker()
    worker.__module__ = __name__
    worker.__qualname__ = name
    globals()[name] = worker
    return worker


def __dir__():
    return sorted(__all__)
