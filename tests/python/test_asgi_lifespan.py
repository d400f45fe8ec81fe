"""Lifespan through pyloop.serve(): modes, state, failures, order."""

import asyncio
import logging
import socket

import pytest
from httpkit import Client, get, respond

import pyloop
from pyloop._run import serving


def bound():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


class Running:
    """pyloop.serve() as a task; stop() ends it as a signal would."""

    def __init__(self, app, **options):
        self._sock = bound()
        self.address = self._sock.getsockname()
        self.server = serving.Server(app, serving.Options(sockets=[self._sock], signals=False, **options))
        self.task = asyncio.ensure_future(self.server.serve())

    async def fetch(self, data=get()):
        while True:
            try:
                client = Client(*await asyncio.open_connection(*self.address))
                break
            except ConnectionRefusedError:
                assert not self.task.done(), self.task
                await asyncio.sleep(0.005)
        response = await client.fetch(data)
        await client.close()
        return response

    async def stop(self):
        self.server.stop()
        await asyncio.wait_for(self.task, 10)


async def take(receive, kind):
    assert await receive() == {"type": f"lifespan.{kind}"}


def test_order_and_state(run):
    events = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
            scope["state"]["database"] = events
            await take(receive, "startup")
            events.append("startup")
            await asyncio.sleep(0.02)
            await send({"type": "lifespan.startup.complete"})
            await take(receive, "shutdown")
            events.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            events.append("end")
            return
        scope["state"]["database"].append("request")
        scope["state"]["mine"] = 1
        assert set(scope["state"]) == {"database", "mine"}
        await respond()(scope, receive, send)
        await asyncio.sleep(0.05)
        events.append("background")

    async def main():
        running = Running(app)
        assert (await running.fetch()).status == 200
        await running.stop()
        assert events == ["startup", "request", "background", "shutdown", "end"]

    run(main())


async def plain(scope, receive, send):
    assert scope["type"] == "http", "no lifespan here"
    assert "state" not in scope
    await respond()(scope, receive, send)


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_application_without_lifespan(run, mode):
    async def main():
        running = Running(plain, lifespan=mode)
        assert (await running.fetch()).status == 200
        await running.stop()

    run(main())


def test_off_does_not_ask(run):
    async def app(scope, receive, send):
        assert scope["type"] != "lifespan"
        await plain(scope, receive, send)

    async def main():
        running = Running(app, lifespan="off")
        assert (await running.fetch()).status == 200
        await running.stop()

    run(main())


def test_on_insists(run):
    async def main():
        with pytest.raises(serving.StartupError, match="AssertionError: no lifespan here"):
            await Running(plain, lifespan="on").task

    run(main())


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("raises", [False, True])
def test_failed_startup(run, mode, raises):
    async def app(scope, receive, send):
        await take(receive, "startup")
        await send({"type": "lifespan.startup.failed", "message": "Traceback ...\nValueError: no database\n"})
        if raises:
            raise ValueError("no database")

    async def main():
        running = Running(app, lifespan=mode)
        with pytest.raises(serving.StartupError, match="^application startup failed: ValueError: no database$"):
            await running.task
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*running.address)

    run(main())


def test_application_that_returns_at_once(run):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await respond()(scope, receive, send)

    async def main():
        running = Running(app)
        assert (await running.fetch()).status == 200
        await running.stop()

    run(main())


@pytest.mark.parametrize("how", ["message", "raise"])
def test_failed_shutdown_is_logged(run, how, caplog):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            return await respond()(scope, receive, send)
        await take(receive, "startup")
        await send({"type": "lifespan.startup.complete"})
        await take(receive, "shutdown")
        if how == "raise":
            raise ValueError("disk full")
        await send({"type": "lifespan.shutdown.failed", "message": "disk full"})

    async def main():
        running = Running(app)
        assert (await running.fetch()).status == 200
        await running.stop()

    with caplog.at_level(logging.ERROR, "pyloop"):
        run(main())
    assert "disk full" in caplog.text


@pytest.mark.parametrize("messages", [
    [{"type": "lifespan.nonsense"}], [{"type": "http.response.start"}], [{"type": "lifespan.shutdown.complete"}],
    [{"type": "lifespan.startup.complete"}, {"type": "lifespan.startup.complete"}],
])  # fmt: skip
def test_wrong_messages_raise(run, messages):
    raised = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            return await respond()(scope, receive, send)
        await take(receive, "startup")
        for message in messages[:-1]:
            await send(message)
        with pytest.raises(RuntimeError):
            await send(messages[-1])
        raised.append(True)
        if len(messages) == 1:
            await send({"type": "lifespan.startup.complete"})
        await take(receive, "shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def main():
        running = Running(app)
        assert (await running.fetch()).status == 200
        await running.stop()
        assert raised == [True]

    run(main())


def test_serve_ends_in_order_when_cancelled(run):
    ended = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            return await respond()(scope, receive, send)
        await take(receive, "startup")
        await send({"type": "lifespan.startup.complete"})
        await take(receive, "shutdown")
        ended.append(True)
        await send({"type": "lifespan.shutdown.complete"})

    async def main():
        sock = bound()
        task = asyncio.ensure_future(pyloop.serve(app, sockets=[sock], signals=False))
        running = Running.__new__(Running)
        running.address, running.task = sock.getsockname(), task
        assert (await running.fetch()).status == 200
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]

    run(main())


def test_graceful_timeout_cancels(run):
    cancelled = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

    async def main():
        running = Running(app, timeout_graceful_shutdown=0.1)
        request = asyncio.ensure_future(running.fetch())
        while running.server.requests == 0:
            await asyncio.sleep(0.005)
        await running.stop()
        assert (await request).status == 500
        assert cancelled == [True]

    run(main())


@pytest.mark.parametrize("options", [{"lifespan": "maybe"}, {"unknown": 1}])
def test_wrong_options(run, options):
    async def main():
        with pytest.raises((TypeError, ValueError)):
            await pyloop.serve(plain, **options)

    run(main())
