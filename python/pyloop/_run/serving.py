"""Serves an ASGI application: sockets, lifespan, signals, orderly end.

start   bind, application start-up, listen
serve   until a signal, stop() or a cancellation
end     no new connections, responses in progress, application shutdown

The first SIGINT or SIGTERM ends in that order, a second SIGINT at once.
"""

import asyncio
import contextlib
import dataclasses
import errno
import functools
import os
import signal
import socket
import stat

from . import logs
from .lifespan import LifespanFailed
from .site import Site

log = logs.log


class StartupError(Exception):
    """Serving could not begin; the text is for the user."""


@dataclasses.dataclass
class Options:
    """Names and defaults are uvicorn's where it has them."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    fd: int | None = None
    sockets: list | None = None
    backlog: int = 2048
    lifespan: str = "auto"
    lifespan_scope: str = "worker"
    access_log: bool = True
    root_path: str = ""
    limit_concurrency: int | None = None
    limit_body_size: int | None = None
    timeout_keep_alive: float = 5
    timeout_headers: float = 30
    timeout_graceful_shutdown: float | None = None
    server_header: bool = True
    date_header: bool = True
    signals: bool = True

    def __post_init__(self):
        if self.lifespan not in ("auto", "on", "off"):
            raise ValueError(f"lifespan must be 'auto', 'on' or 'off', not {self.lifespan!r}")
        if self.lifespan_scope not in ("process", "worker"):
            raise ValueError(f"lifespan_scope must be 'process' or 'worker', not {self.lifespan_scope!r}")


# Sockets.


def _os_text(error):
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _bind_one(family, address, port=None):
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port is not None:
            address = (address[0], port, *address[2:])
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_tcp(host, port):
    """A socket for each address of the host; with port 0 all get the same free one."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        text = error.strerror if isinstance(error, socket.gaierror) else error
        raise StartupError(f"cannot resolve host {host!r}: {text}") from error
    sockets = []
    chosen = None
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_bind_one(family, address, chosen))
            except OSError as error:
                # "localhost" may name ::1 on a machine without IPv6.
                if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue
                raise StartupError(f"cannot listen on {_url(address)}: {_os_text(error)}") from error
            if port == 0 and chosen is None:
                chosen = sockets[0].getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_unix(path):
    mode = 0o666
    with contextlib.suppress(OSError):
        info = os.stat(path)
        if stat.S_ISSOCK(info.st_mode):  # left by an earlier server
            mode = stat.S_IMODE(info.st_mode)
            os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        if not path.startswith("\0"):
            os.chmod(path, mode)
    except OSError as error:
        sock.close()
        raise StartupError(f"cannot listen on {path}: {_os_text(error)}") from error
    return sock


def _adopt(fd):
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise StartupError(f"file descriptor {fd} is not a usable socket: {_os_text(error)}") from error
    if sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise StartupError(f"file descriptor {fd} is not a stream socket")
    return sock


def bind(options):
    """The sockets that the options ask for, bound but not listening."""
    if options.sockets:
        return list(options.sockets)
    if options.fd is not None:
        return [_adopt(options.fd)]
    if options.uds is not None:
        return [_bind_unix(options.uds)]
    return _bind_tcp(options.host, options.port)


def _url(address):
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


def describe(sock):
    """Where clients find the socket."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return "unix:" + os.fsdecode(name)
    return _url(name)


# Serving.


async def _everywhere(calls):
    """The results of async functions, each called in the loop given with it; the first error, once all have ended."""
    here = asyncio.get_running_loop()
    results = await asyncio.gather(*(
        function() if view is here else asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(), view))
        for view, function in calls), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


class Server:
    """One application on one loop, in parallel mode on all its views: `await Server(app, options).serve()`.

    captured_signals has the signals that ended it, for whoever wants to die by the same.
    """

    def __init__(self, application, options):
        self._application = application
        self._options = options
        self._stop = asyncio.Event()
        self._sites = []  # (view, site), the first view's first
        self._is_listening = False
        self._uds_identity = None
        self.captured_signals = []
        self.sockets = []

    @property
    def requests(self):
        """How many the application is working on."""
        return sum(site.requests for _, site in self._sites)

    def stop(self):
        """Ends serve() in an orderly way. The loop's thread."""
        self._stop.set()

    async def serve(self):
        loop = asyncio.get_running_loop()
        first = getattr(loop, "_first_view", None) or loop
        views = (first, *getattr(first, "_other_views", ()))
        if loop is not first:
            raise RuntimeError("in parallel mode serve() belongs to the main strand")
        with self._signals(loop):
            self.sockets = bind(self._options)
            try:
                self._sites = await _everywhere([(view, self._make_site) for view in views])
                await self._start(loop)
                await self._stop.wait()
            finally:
                await self._end()

    async def _make_site(self):
        return asyncio.get_running_loop(), Site(self._application, self._options)

    async def _start_application(self):
        """The state for each site, in the order of the views."""
        count = 1 if self._options.lifespan_scope == "process" else len(self._sites)
        try:
            states = await _everywhere([(view, site.startup) for view, site in self._sites[:count]])
        except LifespanFailed as error:
            lines = str(error).strip().splitlines()
            log.debug("%s", error)
            raise StartupError(f"application startup failed: {lines[-1] if lines else 'no reason given'}") from error
        return tuple(states * (len(self._sites) // count))

    async def _start(self, loop):
        states = await self._start_application()
        if self._stop.is_set():
            return
        options = self._options
        for sock in self.sockets:
            sock.setblocking(False)
            try:
                sock.listen(options.backlog)
            except OSError as error:
                raise StartupError(f"cannot listen on {describe(sock)}: {_os_text(error)}") from error
            threads = f", {len(self._sites)} threads" if len(self._sites) > 1 else ""
            log.info("Listening on %s (%s%s)", describe(sock), loop.backend, threads)
        self._is_listening = True
        await _everywhere([(view, functools.partial(site.open, states, index))
                           for index, (view, site) in enumerate(self._sites)])
        (_, first), *others = self._sites
        for sock in self.sockets:
            first.listen(sock, await _everywhere([(view, functools.partial(site.join, sock)) for view, site in others]))
        if options.uds is not None and not options.uds.startswith("\0"):
            self._uds_identity = os.stat(options.uds).st_ino

    async def _finish(self, site):
        site.drain()
        await site.finish()

    async def _end(self):
        if self._is_listening:
            log.info("Shutting down")
            drains = asyncio.ensure_future(_everywhere([
                (view, functools.partial(self._finish, site)) for view, site in self._sites]))
            self._forget_uds()
            await drains
        for sock in self.sockets:
            sock.close()
        await _everywhere([(view, site.shutdown) for view, site in self._sites])

    def _forget_uds(self):
        """Removes our path, if nobody has put another socket there."""
        if self._uds_identity is not None:
            with contextlib.suppress(OSError):
                if os.stat(self._options.uds).st_ino == self._uds_identity:
                    os.unlink(self._options.uds)

    # Signals.

    def _handle_signal(self, number):
        self.captured_signals.append(number)
        if self._stop.is_set() and number == signal.SIGINT:
            for _, site in self._sites:
                site.force()
        self._stop.set()

    @contextlib.contextmanager
    def _signals(self, loop):
        handled = []
        previous = {}
        if self._options.signals:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.getsignal(number)
                try:
                    loop.add_signal_handler(number, self._handle_signal, number)
                except (ValueError, RuntimeError, NotImplementedError):
                    break  # not the main thread: signals are somebody else's
                handled.append(number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
                if previous[number] is not None:
                    signal.signal(number, previous[number])


async def serve(application, **options):
    """Serve an ASGI application on the running loop until SIGINT, SIGTERM or cancellation.

    Options are those of `python -m pyloop.run`, with underscores: host, port, uds, fd, backlog, lifespan,
    access_log, root_path, limit_concurrency, timeout_keep_alive, timeout_graceful_shutdown, ...;
    `sockets` takes bound sockets, `signals=False` leaves the signals alone.
    """
    await Server(application, Options(**options)).serve()
