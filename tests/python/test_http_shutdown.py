"""The orderly end: drain, wait, cancel, abort, and a loop that is closed under the server."""

import asyncio
import gc
import socket
import weakref

import pytest
from httpkit import Serving, get, respond, stuck, until

from pyloop import _core


def test_drain_closes_idle_connections_and_stops_accepting(run):
    async def main():
        async with Serving(respond()) as server:
            fresh, used = await server.connect(), await server.connect()
            await used.fetch(get())
            server.http.drain()
            assert await fresh.rest() == b"" and await used.rest() == b""
            await asyncio.wait_for(server.http.wait_drained(), 5)
            with pytest.raises(ConnectionRefusedError):
                await server.connect()
            server.http.drain()  # harmless

    run(main())


def test_drain_lets_requests_finish(run):
    async def main():
        go = asyncio.Event()

        async def app(scope, receive, send):
            if scope["path"] == "/started":
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await go.wait()
            if scope["path"] != "/started":
                await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"b"})

        async with Serving(app) as server:
            first, second, third = [await server.connect() for _ in range(3)]
            first.write(get())
            second.write(get("/started"))
            third.write(b"GET / HTTP/1.1\r\nHo")
            await until(lambda: server.http.tasks == 2)
            server.http.drain()
            drained = server.http.wait_drained()
            third.write(b"st: a\r\n\r\n")  # begun before
            await until(lambda: server.http.tasks == 3)
            assert not drained.done()
            go.set()
            for client in (first, third):
                response = await client.response()
                assert (response.body, response.header("connection")) == (b"b", "close")
                assert await client.rest() == b""
            assert (await second.response()).body == b"ab"
            assert await second.rest() == b""
            await asyncio.wait_for(drained, 5)

    run(main())


def test_drained_waits_for_background_work(run):
    async def main():
        go = asyncio.Event()

        async def app(scope, receive, send):
            await respond()(scope, receive, send)
            await go.wait()

        async with Serving(app) as server:
            await server.fetch(get())
            server.http.drain()
            drained = server.http.wait_drained()
            await until(lambda: server.http.connections == 0)
            assert not drained.done()
            go.set()
            await asyncio.wait_for(drained, 5)

    run(main())


def test_cancel_and_abort(run):
    async def main():
        ended = []

        async with Serving(stuck(ended)) as server:
            first, second = await server.connect(), await server.connect()
            first.write(get())
            second.write(get("/started"))
            await until(lambda: server.http.tasks == 2)
            server.http.drain()
            assert server.http.cancel() == 2
            assert (await first.response()).status == 500
            assert (await second.rest()).endswith(b"1\r\na\r\n")
            third = server.http.wait_drained()
            server.http.abort()
            await asyncio.wait_for(third, 5)
        assert sorted(ended) == ["/", "/started"]

    run(main())


def test_two_waits(run):
    async def main():
        async with Serving(respond()) as server:
            client = await server.connect()
            await client.fetch(get())
            first = server.http.wait_drained()
            with pytest.raises(RuntimeError):
                server.http.wait_drained()
            first.cancel()
            second = server.http.wait_drained()
            server.http.drain()
            await asyncio.wait_for(second, 5)

    run(main())


def test_loop_closed_with_everything_open(new_loop):
    """Nothing crashes, nothing leaks, and the sockets are closed."""
    loop = new_loop()
    alive = []

    async def app(scope, receive, send):
        alive.append(weakref.ref(asyncio.current_task()))
        if scope["path"] == "/receive":
            await receive()
            await receive()
        else:
            await send({"type": "http.response.start", "status": 200})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})

    async def main():
        server = Serving(app)
        await server.__aenter__()
        clients = []
        for path in ("/receive", "/send", None, "/receive"):
            client = socket.create_connection(server.address[:2])
            clients.append(client)
            if path:
                client.sendall(get(path))
        await until(lambda: server.http.tasks == 3 and server.http.connections == 4)
        return server, clients

    server, clients = loop.run_until_complete(main())
    for ref in alive:
        ref()._log_destroy_pending = False
    loop.close()
    assert server.http.connections == 0
    server.http.drain()
    for client in clients:
        client.settimeout(10)
        try:
            while client.recv(1 << 20):
                pass
        except ConnectionResetError:
            pass
        client.close()
    del server
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


def test_server_without_a_reference_goes_on(run):
    async def main():
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.setblocking(False)
        address = sock.getsockname()
        server = _core.HttpServer(asyncio.get_running_loop(), respond(), lambda *what: None)
        server.listen(sock)
        keeper = Serving(respond())
        keeper.address = address
        keeper.http = server
        ref = server
        del server, sock
        gc.collect()
        client = await keeper.connect()
        assert (await client.fetch(get())).status == 200
        await client.close()
        ref.drain()
        await ref.wait_drained()

    run(main())


def test_objects_go_with_their_requests(run):
    """No cycle keeps a finished request alive."""
    class Marker:
        pass

    async def main():
        gc.collect()
        gc.disable()
        try:
            refs = []

            async def app(scope, receive, send):
                marker = scope["marker"] = Marker()
                refs.append(weakref.ref(marker))
                if scope["path"] == "/wait":
                    await asyncio.sleep(0.001)
                if scope["path"] == "/raise":
                    raise ValueError
                await receive()
                await respond()(scope, receive, send)

            async with Serving(app) as server:
                for path in ("/", "/wait", "/raise"):
                    client = await server.connect()
                    await client.fetch(get(path))
                    await client.close()
                server.errors.clear()
                await until(lambda: server.http.connections == 0)
                assert [ref() for ref in refs] == [None] * 3
        finally:
            gc.enable()

    run(main())


@pytest.mark.parametrize("arguments, error", [
    ({"loop": None}, TypeError), ({"app": 5}, TypeError), ({"on_error": 5}, TypeError), ({"state": []}, TypeError),
    ({"timeout_keep_alive": -1}, ValueError), ({"timeout_headers": float("nan")}, ValueError),
    ({"limit_concurrency": -1}, ValueError), ({"unknown": 1}, TypeError), ({"root_path": b""}, TypeError),
])  # fmt: skip
def test_wrong_arguments(loop, arguments, error):
    options = {"loop": loop, "app": respond(), "on_error": print, **arguments}
    with pytest.raises(error):
        _core.HttpServer(**options)


def test_foreign_loop_and_bad_sockets(loop):
    other = asyncio.SelectorEventLoop()
    with pytest.raises(TypeError, match="pyloop.Loop"):
        _core.HttpServer(other, respond(), print)
    other.close()
    server = _core.HttpServer(loop, respond(), print)
    with pytest.raises(TypeError):
        server.listen("nonsense")
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        server.listen(socket.socket())
