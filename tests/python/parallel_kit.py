"""For tests of parallel mode: a loop with views, the way into a certain one, and requests that leave theirs."""

import asyncio
import contextlib
import socket
import sysconfig
import threading

import httpkit

import pyloop

HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")


def there(coro, number=0):
    """Runs the coroutine in one of the other views; awaitable in the first one."""
    view = asyncio.get_running_loop()._first_view._other_views[number]
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, view))


@contextlib.contextmanager
def parallel_runner(backend, *, workers=2, debug=False):
    """(runner, reports): an asyncio.Runner, and what the exception handler got."""
    reports = []
    loop = pyloop.Loop(backend=backend, parallel=True, workers=workers)
    loop.set_exception_handler(lambda _, context: reports.append(context))
    with asyncio.Runner(debug=debug, loop_factory=lambda: loop) as runner:
        yield runner, reports


def checked_run(backend, workers):
    """run(main): the result of main() on a fresh loop; nothing may have been reported."""
    def run(main):
        with parallel_runner(backend, workers=workers) as (runner, reports):
            result = runner.run(main)
        assert reports == []
        return result
    return run


class Stolen(httpkit.Serving):
    """Serves in the first view; every request is queued as a strand, and each is begun by another lane.

    As soon as requests are queued, the first view stands still until the others have begun them all. It must know how
    many to expect: write() of its clients says so.
    """

    def __init__(self, app, **options):
        self.places = []  # threads in which the application began
        self._begun = threading.Semaphore(0)
        self._seen = 0
        self._expected = 0
        self._is_holding = False

        def begin(*arguments):
            self.places.append(threading.get_ident())
            self._begun.release()
            return app(*arguments)

        super().__init__(begin, _behind_ns=0, **options)

    def expect(self, count):
        """So many requests are on their way."""
        self._expected += count
        if not self._is_holding:
            self._is_holding = True
            self._hold()

    def _hold(self):
        """In each turn, behind its events and before the strands that these have queued."""
        queued = self._loop._metrics()["requests_queued"] - self._queued_before
        while self._seen < queued:
            assert self._begun.acquire(timeout=httpkit.TIMEOUT)
            self._seen += 1
        self._is_holding = self._seen < self._expected
        if self._is_holding:
            self._loop.call_soon(self._hold)

    async def connect(self):
        client = await super().connect()
        write = client.write

        def write_and_expect(data):
            self.expect(data.count(b" HTTP/1.1\r\n"))
            write(data)

        client.write = write_and_expect
        return client

    async def __aenter__(self):
        self._loop = asyncio.get_running_loop()
        self._queued_before = self._loop._metrics()["requests_queued"]
        return await super().__aenter__()

    async def __aexit__(self, kind, error, traceback):
        self._expected = 0
        await super().__aexit__(kind, error, traceback)
        if kind is None:
            assert threading.get_ident() not in self.places


@contextlib.contextmanager
def several(address, count):
    """Plain sockets: what they send has arrived before the loop looks again."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(address[:2], httpkit.TIMEOUT)) for _ in range(count)]


async def answer(sock):
    """The response of a connection that closes."""
    sock.setblocking(False)
    data = b""
    while more := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 65536), httpkit.TIMEOUT):
        data += more
    return data
