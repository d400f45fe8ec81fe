"""What one loop does of serving: its HTTP server, and its own part of the application's life.

In serial mode there is one site. In parallel mode each view has one; the first accepts, and hands each connection to
one of the less loaded, where it stays.
"""

import asyncio

from .. import _core
from . import logs
from .lifespan import Lifespan

log = logs.log


class Site:
    """Everything here runs in the loop's own thread, but for force() and requests."""

    def __init__(self, application, options):
        self._application = application
        self._options = options
        self._lifespan = None
        self._http = None
        self._force = asyncio.Event()
        self._loop = None

    @property
    def requests(self):
        return 0 if self._http is None else self._http.tasks

    async def startup(self):
        """The application's start-up; its state. LifespanFailed tells why it failed."""
        self._lifespan = Lifespan(self._application, self._options.lifespan, log)
        await self._lifespan.startup()
        return self._lifespan.state if self._lifespan.is_active else None

    async def open(self, states, index):
        """Make the HTTP server of the view with that index; `states` has those of all views.

        It gets one of as many equal parts of what limits all together.
        """
        options = self._options
        self._loop = asyncio.get_running_loop()
        self._http = _core.HttpServer(
            self._loop, self._application, logs.on_error,
            state=states[index],
            states=states,
            root_path=options.root_path,
            access_log=logs.write_access if options.access_log else None,
            timeout_keep_alive=options.timeout_keep_alive,
            timeout_headers=options.timeout_headers,
            limit_concurrency=-(-(options.limit_concurrency or 0) // len(states)),
            limit_body_size=options.limit_body_size or 0,
            server_header=options.server_header,
            date_header=options.date_header)

    def listen(self, sock, peers):
        """Serve what comes on a listening socket, together with the peers that join() gave."""
        self._http.listen(sock, tuple(peers))

    async def join(self, sock):
        """A peer for the listen() of another site."""
        return self._http.join(sock)

    def force(self):
        """Waits for nothing any more. Any thread."""
        loop = self._loop
        if loop is not None and loop is not asyncio._get_running_loop():
            loop.call_soon_threadsafe(self._force.set)
        else:
            self._force.set()

    def drain(self):
        """No new connections; those that are idle are closed."""
        if self._http is not None:
            self._http.drain()

    async def finish(self):
        """Waits for the requests in progress, as long as the options and force() allow."""
        http = self._http
        if http is None:
            return
        drained = http.wait_drained()
        if not drained.done():
            log.info("Waiting for %d connection(s) and %d request(s) to finish (CTRL+C to force quit)",
                     http.connections, http.tasks)
        timeout = self._options.timeout_graceful_shutdown
        forced = asyncio.ensure_future(self._force.wait())
        try:
            await asyncio.wait([drained, forced], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if drained.done():
                return
            count = http.cancel()
            if not self._force.is_set():
                log.error("Cancelled %d running request(s): the time for a graceful shutdown is over", count)
                await asyncio.wait([drained, forced], timeout=1, return_when=asyncio.FIRST_COMPLETED)
            http.abort()
            await asyncio.wait([drained], timeout=1)
        finally:
            forced.cancel()
            http.flush_log()

    async def shutdown(self):
        """The application's shutdown, if this site started it, unless force() comes first."""
        if self._lifespan is None or self._force.is_set():
            return
        task = asyncio.ensure_future(self._lifespan.shutdown())
        forced = asyncio.ensure_future(self._force.wait())
        await asyncio.wait([task, forced], return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()
