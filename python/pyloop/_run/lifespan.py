"""The lifespan protocol: start-up before the first connection, shutdown after the last."""

import asyncio

from .load import describe


class LifespanFailed(Exception):
    """The application reported, or raised, that it cannot start."""


class Lifespan:
    """mode "on" insists on it, "auto" goes on when the application raises, "off" does nothing."""

    def __init__(self, application, mode, log):
        self._application = application
        self._mode = mode
        self._log = log
        self._received = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure = None  # message of startup.failed, or the exception of an application that must have it
        self._is_supported = True
        self._task = None
        self.state = {}

    @property
    def is_active(self):
        """The application takes part, so requests get its state."""
        return self._mode != "off" and self._is_supported

    async def startup(self):
        if self._mode == "off":
            return
        self._log.info("Waiting for application startup.")
        self._task = asyncio.get_running_loop().create_task(self._run(), name="lifespan")
        self._received.put_nowait({"type": "lifespan.startup"})
        await self._started.wait()
        if self._failure is not None:
            await self._end_task()
            raise LifespanFailed(self._failure)
        self._log.info("Application startup complete.")

    async def shutdown(self):
        if self._task is None:
            return
        if not self._task.done():
            self._log.info("Waiting for application shutdown.")
            self._received.put_nowait({"type": "lifespan.shutdown"})
            await self._stopped.wait()
            if self._failure is not None:
                self._log.error("Application shutdown failed. %s", self._failure)
            else:
                self._log.info("Application shutdown complete.")
        await self._end_task()

    async def _end_task(self):
        """What the application does after its last message is given a moment."""
        await asyncio.wait([self._task], timeout=5)
        self._task.cancel()

    async def _run(self):
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._application(scope, self._received.get, self._send)
        except Exception as error:
            self._raised(error)
        finally:
            self._started.set()
            self._stopped.set()

    def _raised(self, error):
        if self._started.is_set():
            if self._is_supported:
                self._failure = self._failure or describe(error)
                self._log.error("Exception in the lifespan of the application", exc_info=error)
            return
        if self._failure is not None:
            return  # raised after it said startup.failed
        self._is_supported = False
        if self._mode == "on":
            self._failure = describe(error)
            self._log.debug("Exception in the lifespan of the application", exc_info=error)
        else:
            self._log.info("ASGI 'lifespan' protocol appears unsupported.")

    async def _send(self, message):
        kind = message["type"]
        phase, _, outcome = kind.removeprefix("lifespan.").partition(".")
        event = {"startup": self._started, "shutdown": self._stopped}.get(phase)
        if event is None or outcome not in ("complete", "failed") or not kind.startswith("lifespan."):
            raise RuntimeError(f"Unexpected ASGI message {kind!r}")
        if event.is_set() or (phase == "shutdown" and not self._started.is_set()):
            raise RuntimeError(f"Unexpected ASGI message {kind!r} at this point")
        if outcome == "failed":
            self._failure = message.get("message") or f"{phase} failed"
        event.set()
