"""HTTP requests as strands: a lane that is behind lets others take them, and the answers come back."""

import asyncio
import socket
import struct
import sysconfig
import threading
import time

import httpkit
import parallel_kit
import pytest
from httpkit import Serving, echo, get, post, read_body, respond, until
from parallel_kit import Stolen, answer, several

import pyloop

IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
START = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]}
TIMEOUT = httpkit.TIMEOUT


@pytest.fixture(params=[2, 3])
def run(request, backend):
    return parallel_kit.checked_run(backend, request.param)


def view():
    return asyncio.get_running_loop()


# Which requests become strands.


@pytest.mark.skipif(not IS_FREE_THREADED, reason="with a GIL requests begin inside their event")
@pytest.mark.parametrize("count", [2, 15])
def test_requests_of_one_turn_run_on_two_lanes(run, count):
    """The first one takes long; of the others two wait for each other."""
    async def main():
        gate = threading.Barrier(2)
        lock = threading.Lock()
        places = []

        async def app(scope, receive, send):
            with lock:
                number = len(places)
                places.append(threading.get_ident())
            if number == 0:
                end = time.monotonic() + 0.002
                while time.monotonic() < end:
                    pass
            elif number <= 2:
                gate.wait(TIMEOUT)
            await respond()(scope, receive, send)

        async with Serving(app) as server:
            with several(server.address, count + 1) as socks:
                await until(lambda: server.http.connections == len(socks))
                for sock in socks:
                    sock.sendall(get("/", "Connection: close"))
                for sock in socks:
                    assert (await answer(sock)).endswith(b"ok")
            assert view()._metrics()["requests_queued"] == count
            assert places[0] == threading.get_ident()
            assert len(set(places[1:3])) == 2
    run(main())


def test_requests_that_do_not_wait_begin_in_their_event(run):
    async def main():
        async with Serving(respond(), _behind_ns=TIMEOUT * 10**9) as server:  # however busy the machine is
            client = await server.connect()
            for _ in range(20):
                await client.fetch(get())
            for _ in range(5):
                client.write(get() * 4)  # in one turn, and small
                for _ in range(4):
                    await client.response()
        assert view()._metrics()["requests_queued"] == 0
    run(main())


@pytest.mark.skipif(IS_FREE_THREADED, reason="what a build with a GIL does")
def test_with_a_gil_nothing_is_queued(run):
    async def main():
        async def app(scope, receive, send):
            end = time.monotonic() + 0.001
            while time.monotonic() < end:
                pass
            await respond()(scope, receive, send)

        async with Serving(app) as server:
            with several(server.address, 4) as socks:
                await until(lambda: server.http.connections == len(socks))
                for sock in socks:
                    sock.sendall(get("/", "Connection: close"))
                for sock in socks:
                    assert (await answer(sock)).endswith(b"ok")
        assert view()._metrics()["requests_queued"] == 0
    run(main())


def test_strands_that_nobody_takes_run_at_home(backend):
    """One worker has nobody to give to; more do as they like, and all is answered."""
    async def main():
        async with Serving(echo, _behind_ns=0) as server:
            client = await server.connect()
            for number in range(50):
                body = b"%d" % number * number
                assert (await client.fetch(post(body))).body == body
        return view()._metrics()["requests_queued"]
    for workers, queued in ((1, 0), (2, 50)):
        with parallel_kit.parallel_runner(backend, workers=workers) as (runner, reports):
            assert runner.run(main()) == queued
        assert reports == []


# What a request does in another view.


def test_get_keep_alive_and_pipelined(run):
    async def main():
        lines = []

        async def app(scope, receive, send):
            assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
            home = view()
            await asyncio.sleep(0)
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                task = group.create_task(asyncio.sleep(0, asyncio.current_task()))
            assert task.result() is not None and view() is home
            await send(START)
            await send({"type": "http.response.body", "body": scope["path"].encode()})

        async with Stolen(app, access_log=lines.append) as server:
            client = await server.connect()
            for path in ("/1", "/2"):
                response = await client.fetch(get(path))
                assert (response.body, response.header("content-length")) == (path.encode(), "2")
                assert response.header("x-a") == "b"
            client.write(get("/3") + get("/4") + get("/5", "Connection: close"))
            assert [(await client.response()).body for _ in range(3)] == [b"/3", b"/4", b"/5"]
            assert await client.rest() == b""
            server.http.flush_log()
        text = b"".join(lines)
        assert [line.split()[4] for line in text.splitlines()] == [b"/%d" % i for i in range(1, 6)]
        assert text.count(b"200 OK") == 5
    run(main())


def test_streams_both_ways_with_back_pressure(run):
    async def main():
        body = bytes(range(256)) * 8192
        async with Stolen(echo) as server:
            client = await server.connect()
            client.write(get("/", "Transfer-Encoding: chunked", method="POST"))
            response = asyncio.create_task(client.response())
            for start in range(0, len(body), 100_000):
                piece = body[start:start + 100_000]
                client.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await client.writer.drain()
            client.write(b"0\r\n\r\n")
            assert (await response).body == body
            assert (await client.fetch(post(body))).body == body
    run(main())


def test_send_waits_for_a_slow_reader(run):
    async def main():
        sent = []
        piece = b"x" * 100_000

        async def app(scope, receive, send):
            await send(START)
            for _ in range(40):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent.append(None)
            await send({"type": "http.response.body"})

        listening, sock = socket.socket(), socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        listening.bind(("127.0.0.1", 0))
        async with Stolen(app, sock=listening) as server:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            sock.setblocking(False)
            await view().sock_connect(sock, server.address)
            server.expect(1)
            await view().sock_sendall(sock, get("/", "Connection: close"))
            await until(lambda: sent)
            last = -1
            while len(sent) != last:  # until nothing moves any more
                last = len(sent)
                await asyncio.sleep(0.2)
            assert last < 20
            data = await answer(sock)
            sock.close()
            assert data.endswith(b"0\r\n\r\n") and len(data) > 40 * 100_000 and len(sent) == 40
    run(main())


def test_expect_continue(run):
    async def main():
        async with Stolen(echo) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
            assert (await client.head()).status == 200  # echo sends its head first: too late to ask
            client.write(b"abc")
            assert [await client.chunk(), await client.chunk()] == [b"abc", b""]
            assert await client.rest() == b""

        async def app(scope, receive, send):
            await respond(await read_body(receive))(scope, receive, send)

        async with Stolen(app) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
            assert (await client.head()).status == 100
            client.write(b"abc")
            assert (await client.response()).body == b"abc"
    run(main())


def test_disconnect(run):
    async def main():
        outcomes = []

        async def app(scope, receive, send):
            if scope["path"] == "/receive":
                await receive()
                outcomes.append((await receive())["type"])
                outcomes.append((await receive())["type"])
            await send(START)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                await asyncio.sleep(0.001)

        async with Stolen(app) as server:
            for path in ("/receive", "/send"):
                client = await server.connect()
                client.write(get(path))
                await until(lambda: server.http.tasks == 1)
                client.abort()
                await until(lambda: server.http.tasks == 0)  # ClientDisconnected is not reported
            assert outcomes == ["http.disconnect"] * 2
    run(main())


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_disconnect_is_seen_without_waiting(run, is_reset):
    """As Starlette's Request.is_disconnected() asks: what receive() does not have at once is not waited for."""
    def now(awaitable):
        try:
            awaitable.send(None)
        except StopIteration as stop:
            return stop.value["type"]
        awaitable.close()
        return None

    async def main():
        outcomes = []

        async def app(scope, receive, send):
            outcomes.append(now(receive()))
            while (found := now(receive())) is None:
                await asyncio.sleep(0)
            outcomes.append(found)

        async with Stolen(app) as server:
            client = await server.connect()
            client.write(get())
            await until(lambda: outcomes)
            if is_reset:
                client.writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.abort()
            await until(lambda: server.http.tasks == 0)
            assert outcomes == ["http.request", "http.disconnect"]
            server.errors.clear()  # that it has not answered
    run(main())


def test_early_content_is_received_by_whoever_asks_first(run):
    async def main():
        async def app(scope, receive, send):
            home = scope["state"]["home"]
            if scope["path"] == "/home":  # not where the application runs
                message = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(read(receive), home))
            else:
                message = await receive()
            assert message == {"type": "http.request", "body": b"abc", "more_body": False}
            await respond()(scope, receive, send)

        async def read(receive):
            return await receive()

        async with Stolen(app, state={"home": view()}) as server:
            for path in ("/home", "/"):
                assert (await server.fetch(post(b"abc", path=path))).body == b"ok"
    run(main())


def test_failing_applications(run):
    async def main():
        async def app(scope, receive, send):
            if scope["path"] == "/late":
                await send(START)
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
            if scope["path"] != "/nothing":
                raise ValueError(scope["path"])

        async with Stolen(app) as server:
            for path in ("/soon", "/nothing"):
                client = await server.connect()
                response = await client.fetch(get(path))
                assert (response.status, response.header("connection")) == (500, "close")
            client = await server.connect()
            client.write(get("/late"))
            assert (await client.rest()).endswith(b"1\r\na\r\n")
            (_, first), (nothing, _), (_, late) = server.errors
            assert [first.args, late.args] == [("/soon",), ("/late",)]
            assert "without starting response" in nothing
            server.errors.clear()
    run(main())


def test_applications_that_are_no_async_functions(run):
    async def main():
        class Stopped(BaseException):
            pass

        def app(scope, receive, send):
            if scope["path"] == "/call":
                raise Stopped("called")
            return pair()(respond()(scope, receive, send))

        def pair():
            async def both(first):
                await first
            return both

        async with Stolen(app) as server:
            assert (await server.fetch(get())).body == b"ok"
            assert (await server.fetch(get("/call"))).status == 500
            assert [error.args for _, error in server.errors] == [("called",)]
            server.errors.clear()
    run(main())


def test_bad_messages_raise_at_their_await(run):
    async def main():
        raised = []

        async def attempt(awaiting, kind):
            try:
                await awaiting()
            except kind as error:
                raised.append(str(error))

        async def app(scope, receive, send):
            body = {"type": "http.response.body", "more_body": True}
            await attempt(lambda: send("text"), TypeError)
            await attempt(lambda: send({"type": "other"}), RuntimeError)
            await attempt(lambda: send({"type": "http.response.body"}), RuntimeError)
            await attempt(lambda: send({"type": "http.response.start", "status": 99}), ValueError)
            await attempt(lambda: send({**START, "headers": 3}), TypeError)
            await attempt(lambda: send({**START, "headers": [(b"a", b"b\r\n")]}), ValueError)
            await send({**START, "headers": [[b"content-length", b"2"]]})
            await attempt(lambda: send(START), RuntimeError)
            await attempt(lambda: send({**body, "body": "text"}), TypeError)
            await attempt(lambda: send({**body, "body": b"long"}), RuntimeError)
            await send({"type": "http.response.body", "body": bytearray(b"ok")})
            await attempt(lambda: send({"type": "http.response.body"}), RuntimeError)
            with pytest.raises(TypeError):
                send()
            with pytest.raises(TypeError):
                receive(1)

        async with Stolen(app) as server:
            assert (await server.fetch(get())).body == b"ok"
            await until(lambda: server.http.tasks == 0)
        assert len(raised) == 10, raised
    run(main())


def test_what_is_sent_is_read_at_the_call(run):
    async def main():
        async def app(scope, receive, send):
            pair, headers = [b"x-a", b"1"], []
            headers.append(pair)
            body, message = bytearray(b"a"), {"type": "http.response.start", "status": 200, "headers": headers}
            sends = [send(message)]
            pair[1] = b"2"
            headers.append((b"x-b", b"3"))
            message["status"] = 500
            message = {"type": "http.response.body", "body": body, "more_body": True}
            sends.append(send(message))
            body[:] = b"b"
            sends.append(send(message))
            message["more_body"] = False
            sends.append(send(message))  # in the order of the calls, awaited or not
            for awaitable in reversed(sends):
                await awaitable

        async with Stolen(app) as server:
            response = await server.fetch(get())
            assert (response.status, response.body) == (200, b"abb")
            assert (response.header("x-a"), response.header("x-b")) == ("1", None)
    run(main())


def test_a_cancelled_receive_loses_nothing(run):
    async def main():
        count = 300
        turns = []

        async def app(scope, receive, send):
            body = b""
            while len(body) < count:
                task = asyncio.create_task(receive())
                for _ in range(len(turns) % 7):
                    await asyncio.sleep(0)
                turns.append(None)
                task.cancel()
                try:
                    message = await task
                except asyncio.CancelledError:
                    continue
                assert message["type"] == "http.request"
                body += message["body"]
            unused = receive()  # and never awaited
            del unused
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0.01)
            await respond(body)(scope, receive, send)

        async with Stolen(app) as server:
            client = await server.connect()
            client.write(get("/", f"Content-Length: {count + 1}", method="POST"))
            await until(lambda: turns)
            sent = b""
            while len(sent) < count:
                client.write(piece := b"%03d" % (len(sent) // 3))
                sent += piece
                await asyncio.sleep(0)
            assert (await client.response()).body == sent
            client.abort()
    run(main())


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_what_was_there_and_not_looked_at_comes_again(run, body):
    """The whole content is there when the request is queued, and waits where it is run."""
    async def main():
        async def app(scope, receive, send):
            task = asyncio.create_task(receive())
            task.cancel()  # before its first step
            with pytest.raises(asyncio.CancelledError):
                await task
            receive().close()
            assert await receive() == {"type": "http.request", "body": body, "more_body": False}
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0.01)
            await respond(body)(scope, receive, send)

        async with Stolen(app) as server:
            client = await server.connect()
            client.write(get("/", f"Content-Length: {len(body)}", method="POST") + body)
            assert (await client.response()).body == body
    run(main())


def test_content_that_was_let_go_comes_before_the_disconnect(run):
    """The client has closed its side, and the last content was on its way to somebody who did not look."""
    async def main():
        began = []

        async def app(scope, receive, send):
            assert (await receive())["body"] == b"abc"
            first, second = receive(), receive()
            began.append(None)
            assert (await second)["type"] == "http.disconnect"  # so the first one has got the content
            is_standing, gate = threading.Event(), threading.Event()
            view()._first_view.call_soon_threadsafe(lambda: (is_standing.set(), gate.wait(TIMEOUT)))
            assert is_standing.wait(TIMEOUT)
            first.close()
            third = receive()
            gate.set()
            assert await third == {"type": "http.request", "body": b"def", "more_body": False}
            assert (await receive())["type"] == "http.disconnect"
            await respond()(scope, receive, send)

        async with Stolen(app) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 6", method="POST") + b"abc")
            await until(lambda: began)
            client.write(b"def")
            client.writer.write_eof()
            assert (await client.response()).body == b"ok"
    run(main())


def test_sends_that_nobody_awaits(backend):
    """What is wrong with one is reported; that the client is gone is not."""
    async def main():
        async def app(scope, receive, send):
            if scope["path"] == "/wrong":
                send({"type": "other"})
                await respond()(scope, receive, send)
                return
            await receive()
            await receive()
            for message in (START, {"type": "http.response.body", "body": b"late"}):
                send(message)

        async with Stolen(app) as server:
            assert (await server.fetch(get("/wrong"))).body == b"ok"
            client = await server.connect()
            client.write(get())
            await until(lambda: server.http.tasks == 1)
            client.abort()
            await until(lambda: server.http.tasks == 0)
            server.errors.clear()

    with parallel_kit.parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert [str(report["exception"]) for report in reports] == ["Unexpected ASGI message 'other'"]


def test_two_receivers_and_a_coroutine(run):
    async def main():
        async def app(scope, receive, send):
            first = asyncio.create_task(receive())
            assert (await asyncio.wait_for(first, TIMEOUT))["body"] == b"ab"
            assert asyncio.iscoroutine(receive())
            both = [asyncio.create_task(receive()) for _ in range(2)]
            await asyncio.sleep(0)
            await respond()(scope, receive, send)
            assert {message["type"] for message in await asyncio.gather(*both)} == {"http.disconnect"}

        async with Stolen(app) as server:
            assert (await server.fetch(post(b"ab"))).body == b"ok"
            await until(lambda: server.http.tasks == 0)
    run(main())


def test_calls_from_another_view_than_the_requests(run):
    async def main():
        places = []

        async def app(scope, receive, send):
            async def work():
                places.append(view())
                return await receive()

            message = await parallel_kit.there(work())
            await parallel_kit.there(send_all(send, message["body"]))

        async def send_all(send, body):
            await send(START)
            await send({"type": "http.response.body", "body": body})

        async with Serving(app) as server:
            assert (await server.fetch(post(b"text"))).body == b"text"
        assert places and view() not in places
    run(main())


def test_a_head_from_one_view_and_content_from_another(run):
    async def main():
        async def start(send, **more):
            await send({**START, **more})

        async def finish(send, body):
            await send({"type": "http.response.body", "body": body})

        def elsewhere(coro):
            return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, others[0]))

        async def app(scope, receive, send):
            if scope["path"] == "/there-here":
                await elsewhere(start(send))
                await finish(send, b"1")
            elif scope["path"] == "/there-there":
                await elsewhere(start(send))
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(finish(send, b"2"), others[-1]))
            else:
                await elsewhere(start(send, status=201))
                with pytest.raises(RuntimeError, match="has started"):
                    await start(send)
                with pytest.raises(RuntimeError, match="has started"):
                    await elsewhere(start(send))
                await finish(send, b"4")

        others = view()._other_views
        async with Serving(app) as server:
            client = await server.connect()
            for path, expected in (("/there-here", b"1"), ("/there-there", b"2"), ("/twice", b"4")):
                response = await client.fetch(get(path))
                assert response.body == expected and response.header("x-a") == "b"
                assert response.status == (201 if path == "/twice" else 200)
    run(main())


def test_foreign_threads_and_loops_are_refused(run):
    async def main():
        raised = []

        async def app(scope, receive, send):
            async def attempt():
                for call in (receive, lambda: send(START)):
                    with pytest.raises(RuntimeError, match="belong to the thread"):
                        await call()
                    raised.append(None)
            await asyncio.to_thread(asyncio.run, attempt())
            await asyncio.to_thread(lambda: asyncio.Runner(loop_factory=pyloop.Loop).run(attempt()))
            await respond()(scope, receive, send)

        async with Stolen(app) as server:
            assert (await server.fetch(get())).body == b"ok"
        assert len(raised) == 4
    run(main())


def test_states_are_those_of_the_running_view(run):
    async def main():
        states = tuple({"view": one} for one in (view(), *view()._other_views))

        async def app(scope, receive, send):
            assert scope["state"]["view"] is view()
            scope["state"]["more"] = 1  # of this request alone
            await respond()(scope, receive, send)

        for serving in (Stolen, Serving):
            async with serving(app, state=states[0], states=states, **({"_behind_ns": 0} if serving is Serving else {})
                               ) as server:
                for _ in range(3):
                    assert (await server.fetch(get())).body == b"ok"
        assert all(set(state) == {"view"} for state in states)

        async def stateless(scope, receive, send):
            assert "state" not in scope
            await respond()(scope, receive, send)

        async with Stolen(stateless, state={}, states=(None,) * len(states)) as server:
            assert (await server.fetch(get())).body == b"ok"
        with pytest.raises(TypeError, match="for each view"):
            await Serving(app, states=states[1:]).__aenter__()
    run(main())
