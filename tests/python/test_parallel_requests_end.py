"""HTTP requests as strands: how they end, and many of them at once."""

import asyncio
import contextlib
import gc
import threading
import time

import parallel_kit
import pytest
from httpkit import TIMEOUT, Serving, echo, get, post, read_body, respond, stuck, until
from parallel_kit import Stolen, answer, several

import pyloop

START = {"type": "http.response.start", "status": 200}


@pytest.fixture(params=[2, 3])
def run(request, backend):
    return parallel_kit.checked_run(backend, request.param)


def view():
    return asyncio.get_running_loop()


def test_cancel(run):
    async def main():
        ended = []

        async with Stolen(stuck(ended)) as server:
            first, second = await server.connect(), await server.connect()
            first.write(get())
            second.write(get("/started"))
            await until(lambda: server.http.tasks == 2)
            assert (await second.head()).status == 200
            assert await second.chunk() == b"a"
            server.http.drain()
            drained = server.http.wait_drained()
            assert not drained.done()
            assert server.http.cancel() == 2
            assert (await first.response()).status == 500
            assert await second.rest() == b""
            await asyncio.wait_for(drained, TIMEOUT)
            assert sorted(ended) == ["/", "/started"]
    run(main())


def test_cancel_before_it_began(run):
    async def main():
        loop = view()
        began = []

        async def app(scope, receive, send):
            began.append(None)

        async with Serving(app, _behind_ns=0) as server:
            with several(server.address, 1) as (sock,):
                await until(lambda: server.http.connections == 1)
                others = [threading.Event() for _ in loop._other_views]
                release = threading.Event()
                for other, event in zip(loop._other_views, others, strict=True):
                    other.call_soon_threadsafe(lambda event=event: (event.set(), release.wait(TIMEOUT)))
                for event in others:  # nobody can take it
                    assert event.wait(TIMEOUT)
                cancelled = loop.create_future()

                def cancel():
                    if server.http.tasks == 0:
                        loop.call_soon(cancel)
                    else:
                        cancelled.set_result(server.http.cancel())
                cancel()
                sock.sendall(get("/", "Connection: close"))
                assert await cancelled == 1
                assert (await answer(sock)).startswith(b"HTTP/1.1 500 ")
                release.set()
        assert began == []
    run(main())


def test_background_work_is_waited_for(run):
    async def main():
        go = pyloop.sync.Event()

        async def app(scope, receive, send):
            await respond()(scope, receive, send)
            await go.wait()

        async with Stolen(app) as server:
            assert (await server.fetch(get())).body == b"ok"
            server.http.drain()
            drained = server.http.wait_drained()
            await until(lambda: server.http.connections == 0)
            assert not drained.done() and server.http.tasks == 1
            go.set()
            await asyncio.wait_for(drained, TIMEOUT)
    run(main())


@pytest.mark.parametrize("path", ["/receive", "/send", "/sleep"])
def test_the_loop_is_closed_under_a_request(backend, path):
    """Nothing hangs, nothing crashes: the other views end what they run."""
    async def app(scope, receive, send):
        if scope["path"] == "/receive":
            await receive()
            await receive()
        elif scope["path"] == "/send":
            await send(START)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        else:
            await asyncio.sleep(100)

    async def main():
        server = await Stolen(app).__aenter__()
        client = await server.connect()
        client.write(get(path))
        await until(lambda: server.http.tasks == 1)
        return server, client

    with parallel_kit.parallel_runner(backend) as (runner, _):
        kept = runner.run(main())
    del kept


@pytest.mark.parametrize("path", ["/receive", "/send"])
def test_the_first_view_is_closed_under_calls_into_another(backend, path):
    """The connection's view is the other one; what it completes then has nobody to wake."""
    async def app(scope, receive, send):
        async def call():
            if path == "/receive":
                await receive()
                await receive()
            await send(START)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})

        first = view()._first_view
        first.call_soon_threadsafe(lambda: kept.append(first.create_task(call())))
        await asyncio.sleep(100)

    async def serve():
        server = await Serving(app).__aenter__()
        client = await server.connect()
        client.write(get(path))
        return server, client

    async def main():
        kept.append(await parallel_kit.there(serve()))
        await until(lambda: len(kept) == 2)

    kept = []
    loop = pyloop.Loop(backend=backend, parallel=True, workers=2)
    reports = []
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
    loop.run_until_complete(main())
    loop.close()
    kept.clear()
    gc.collect()
    assert set(reports) <= {"Task was destroyed but it is pending!"}


@pytest.mark.parametrize("workers", [2, 4])
def test_many_requests_of_all_kinds(backend, workers):
    """Begun at home or elsewhere, as it comes."""
    clients, rounds = 12, 12

    async def app(scope, receive, send):
        end = time.monotonic() + 0.0003
        while time.monotonic() < end:
            pass
        kind = scope["path"]
        if kind == "/echo":
            await echo(scope, receive, send)
        elif kind == "/fail":
            raise ValueError("on purpose")
        elif kind == "/impatient":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    assert (await receive())["body"] == b"abc"
                    await receive()
            await respond(b"abc")(scope, receive, send)
        elif kind == "/spawned":
            body = await pyloop.spawn(read_body(receive))
            await pyloop.spawn(respond(body)(scope, receive, send))
        elif kind == "/background":
            await respond(await read_body(receive))(scope, receive, send)
            await asyncio.sleep(0.001)
            assert (await receive())["type"] == "http.disconnect"
        else:
            await send(START)
            with contextlib.suppress(OSError):
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 5000, "more_body": True})

    async def talk(server, number):
        client = await server.connect()
        for i in range(rounds):
            body = bytes([number]) * (i * number * 997 % 150_000)
            assert (await client.fetch(post(body, path="/echo"))).body == body
            paths = ["/impatient", "/spawned", "/background"][:1 + (i + number) % 3]
            client.write(b"".join(post(b"abc", path=path) for path in paths))
            for path in paths:
                assert (await client.response()).body == b"abc", path
            if (i + number) % 4 == 0:
                assert (await server.fetch(get("/fail"))).status == 500
            elif (i + number) % 4 == 1:
                other = await server.connect()
                other.write(get("/endless"))
                await other.head()
                other.abort()
        await client.close()

    async def main():
        async with Serving(app, _behind_ns=0) as server:
            await asyncio.wait_for(asyncio.gather(*(talk(server, number) for number in range(clients))), 100)
            await until(lambda: server.http.tasks == 0)
            assert {str(error) for _, error in server.errors} == {"on purpose"}
            assert len(server.errors) == clients * rounds / 4
            server.errors.clear()

    with parallel_kit.parallel_runner(backend, workers=workers) as (runner, reports):
        runner.run(main())
    assert reports == []
