"""receive() and send() as the ASGI specification wants them, and applications that do not keep to it."""

import asyncio

import pytest
from httpkit import Serving, get, post, respond, until

import pyloop

START = {"type": "http.response.start", "status": 200}
BODY = {"type": "http.response.body", "body": b"ok"}


def test_request_without_content(run):
    async def main():
        async def app(scope, receive, send):
            assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
            await respond()(scope, receive, send)
            assert await receive() == {"type": "http.disconnect"}
            assert await receive() == {"type": "http.disconnect"}

        async with Serving(app) as server:
            assert (await server.fetch(get())).status == 200
            assert (await server.fetch(post(b""))).status == 200

    run(main())


def test_content_in_one_event(run):
    async def main():
        async def app(scope, receive, send):
            message = await receive()
            assert message == {"type": "http.request", "body": b"hello", "more_body": False}
            message["body"] = message["extra"] = None  # ours to change
            await respond()(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            for _ in range(2):
                assert (await client.fetch(post(b"hello"))).status == 200

    run(main())


def test_content_as_it_arrives(run):
    async def main():
        queue = asyncio.Queue()

        async def app(scope, receive, send):
            more = True
            while more:
                message = await receive()
                more = message["more_body"]
                queue.put_nowait((message["body"], more))
            await respond()(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 6", method="POST"))
            client.write(b"ab")
            assert await queue.get() == (b"ab", True)
            client.write(b"cd")
            assert await queue.get() == (b"cd", True)
            client.write(b"ef")
            assert await queue.get() == (b"ef", False)
            assert (await client.response()).status == 200

    run(main())


def test_receive_waits_for_disconnect_after_the_content(run):
    async def main():
        seen = []

        async def app(scope, receive, send):
            seen.append(await receive())
            seen.append(await receive())
            # Nobody knows whether the client still reads: sending is no error yet.
            await respond()(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get())
            await until(lambda: seen)
            client.abort()
            await until(lambda: len(seen) == 2)
        assert seen[1] == {"type": "http.disconnect"}

    run(main())


def test_receive_wakes_when_the_response_is_complete(run):
    async def main():
        seen = []

        async def app(scope, receive, send):
            await receive()
            listener = asyncio.create_task(receive())
            await asyncio.sleep(0)
            await respond()(scope, receive, send)
            seen.append(await listener)

        async with Serving(app) as server:
            assert (await server.fetch(get())).status == 200
        assert seen == [{"type": "http.disconnect"}]

    run(main())


def test_cancelled_receive_loses_nothing(run):
    async def main():
        started = asyncio.Event()

        async def app(scope, receive, send):
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(receive(), 0.01)
            task = asyncio.create_task(receive())
            await asyncio.sleep(0)
            started.set()
            await asyncio.sleep(0.02)  # the content arrives and wakes it ...
            task.cancel()  # ... or not: either way it is there
            try:
                body = (await task)["body"]
            except asyncio.CancelledError:
                body = (await receive())["body"]
            await respond(body)(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 3", method="POST"))
            await started.wait()
            client.write(b"abc")
            assert (await client.response()).body == b"abc"

    run(main())


async def cancelled_before_its_first_step(receive):
    task = asyncio.create_task(receive())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def dropped(receive):
    receive()


async def closed(receive):
    receive().close()


@pytest.mark.parametrize("let_go", [cancelled_before_its_first_step, dropped, closed])
@pytest.mark.parametrize("pieces", [(b"",), (b"abc",), (b"abc", b"def")])
def test_receive_that_nobody_looked_at_loses_nothing(run, let_go, pieces):
    """What is there already comes again: as much at once, and the end of it once."""
    async def main():
        following = asyncio.Event()

        async def app(scope, receive, send):
            content = b""
            while True:
                await let_go(receive)
                message = await receive()
                content += message["body"]
                if not message["more_body"]:
                    break
                following.set()
                while len(content) < len(pieces[0]):  # it may come divided
                    content += (await receive())["body"]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(receive(), 0.01)  # not the same once more, nor a disconnect
            await respond(content)(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            whole = b"".join(pieces)
            client.write(get("/", f"Content-Length: {len(whole)}", method="POST") + pieces[0])
            if len(pieces) > 1:
                await following.wait()
                client.write(pieces[1])
            assert (await client.response()).body == whole
            assert (await server.fetch(post(b"next"))).body == b"next"  # the connection's parser is sound

    run(main())


def test_receive_and_send_from_other_tasks(run):
    async def main():
        async def app(scope, receive, send):
            first = asyncio.create_task(receive())
            second = asyncio.ensure_future(receive())
            done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
            body = done.pop().result()["body"]
            await asyncio.create_task(send(START))
            await asyncio.gather(*(send({"type": "http.response.body", "body": b"%d" % i, "more_body": True})
                                   for i in range(5)))  # fmt: skip
            await asyncio.wait_for(send({"type": "http.response.body", "body": body}), 1)

        async with Serving(app) as server:
            assert (await server.fetch(post(b"end"))).body == b"01234end"

    run(main())


def test_from_another_thread(run):
    async def main():
        async def app(scope, receive, send):
            for call in (receive, lambda: send(START)):
                with pytest.raises(RuntimeError, match="thread"):
                    await asyncio.get_running_loop().run_in_executor(None, call)
            await respond()(scope, receive, send)

        async with Serving(app) as server:
            assert (await server.fetch(get())).status == 200

    run(main())


WRONG = {
    "no dict": (["http.response.start"], TypeError),
    "no type": ([{"status": 200}], ValueError),
    "type of another type": ([{"type": b"http.response.start", "status": 200}], ValueError),
    "unknown type": ([{"type": "http.response.nonsense"}], RuntimeError),
    "websocket": ([{"type": "websocket.accept"}], RuntimeError),
    "no status": ([{"type": "http.response.start"}], ValueError),
    "status text": ([{**START, "status": "200"}], TypeError),
    "status 100": ([{**START, "status": 100}], ValueError),
    "status 1000": ([{**START, "status": 1000}], ValueError),
    "huge status": ([{**START, "status": 10**30}], ValueError),
    "headers": ([{**START, "headers": 5}], TypeError),
    "header": ([{**START, "headers": [5]}], TypeError),
    "header of one": ([{**START, "headers": [(b"a",)]}], ValueError),
    "header name str": ([{**START, "headers": [("a", b"b")]}], TypeError),
    "header value str": ([{**START, "headers": [(b"a", "b")]}], TypeError),
    "header name empty": ([{**START, "headers": [(b"", b"b")]}], ValueError),
    "header name space": ([{**START, "headers": [(b"a b", b"b")]}], ValueError),
    "header name crlf": ([{**START, "headers": [(b"a\r\nb", b"c")]}], ValueError),
    "header value crlf": ([{**START, "headers": [(b"a", b"b\r\nc: d")]}], ValueError),
    "header value nul": ([{**START, "headers": [(b"a", b"\0")]}], ValueError),
    "content-length": ([{**START, "headers": [(b"content-length", b"x")]}], ValueError),
    "content-lengths": ([{**START, "headers": [(b"content-length", b"1"), (b"content-length", b"1")]}], ValueError),
    "body first": ([BODY], RuntimeError),
    "two starts": ([START, START], RuntimeError),
    "body of str": ([START, {**BODY, "body": "text"}], TypeError),
    "body of None": ([START, {**BODY, "body": None}], TypeError),
    "too long": ([{**START, "headers": [(b"content-length", b"1")]}, BODY], RuntimeError),
    "too short": ([{**START, "headers": [(b"content-length", b"3")]}, BODY], RuntimeError),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_message_raises_and_gives_500(run, name):
    messages, error = WRONG[name]

    async def main():
        async def app(scope, receive, send):
            for message in messages[:-1]:
                await send(message)
            await send(messages[-1])

        async with Serving(app) as server:
            response = await server.fetch(get())
            assert (response.status, response.header("connection")) == (500, "close")
            (_, raised), = server.errors
            assert type(raised) is error
            server.errors.clear()

    run(main())


@pytest.mark.parametrize("name", WRONG)
def test_application_may_recover_from_a_wrong_message(run, name):
    messages, error = WRONG[name]

    async def main():
        async def app(scope, receive, send):
            has_started = False
            for message in messages[:-1]:
                await send(message)
                has_started = True
            with pytest.raises(error):
                await send(messages[-1])
            if not has_started:
                await send(START)
            length = messages[0].get("headers", []) if isinstance(messages[0], dict) else []
            size = int(length[0][1]) if has_started and length else 2
            await send({**BODY, "body": b"x" * size})

        async with Serving(app) as server:
            assert (await server.fetch(get())).status == 200

    run(main())


def test_after_the_end(run):
    async def main():
        async def app(scope, receive, send):
            await respond()(scope, receive, send)
            for message in (START, BODY):
                with pytest.raises(RuntimeError, match="already completed"):
                    await send(message)

        async with Serving(app) as server:
            assert (await server.fetch(get())).body == b"ok"

    run(main())


def test_extra_keys_do_not_matter(run):
    async def main():
        async def app(scope, receive, send):
            await send({**START, "headers": ([b"a", b"b"] for _ in range(1)), "trailers": False, "extra": 1})
            await send({"type": "http.response.debug", "info": {}})
            await send({**BODY, "extra": 1})

        async with Serving(app) as server:
            response = await server.fetch(get())
            assert (response.status, response.header("a"), response.body) == (200, "b", b"ok")

    run(main())


def test_keys_that_are_equal_but_not_the_same(run):
    def copy(message):
        return {"".join(list(key)): value for key, value in message.items()}

    async def main():
        async def app(scope, receive, send):
            await send(copy({**START, "headers": [(b"a", b"b")]}))
            await send(copy({**BODY, "more_body": True}))
            await send(copy(BODY))

        async with Serving(app) as server:
            response = await server.fetch(get())
            assert (response.header("a"), response.body) == ("b", b"okok")

    run(main())


def test_send_inside_send(run):
    """Headers are iterated and bodies copied by code of the application, which may do anything."""
    async def main():
        async def app(scope, receive, send):
            def headers():
                send(START)
                yield (b"a", b"b")

            class More:
                def __bool__(self):
                    send(BODY)
                    return False

            with pytest.raises(RuntimeError):
                await send({**START, "headers": headers()})
            with pytest.raises(RuntimeError):
                await send({**BODY, "more_body": More()})

        async with Serving(app) as server:
            assert (await server.fetch(get())).body == b"ok"

    run(main())


def test_length_violations_on_the_wire_close(run):
    async def main():
        async def app(scope, receive, send):
            await send({**START, "headers": [(b"content-length", b"4")]})
            await send({**BODY, "more_body": True})
            body = b"long" if scope["path"] == "/long" else b""
            with pytest.raises(RuntimeError, match=scope["path"][1:]):
                await send({**BODY, "body": body})

        async with Serving(app) as server:
            for path in ("/longer", "/shorter"):
                data = await server.exchange(get(path[:5] if path == "/longer" else path))
                assert data.endswith(b"\r\n\r\nok")
            server.errors.clear()

    run(main())


def test_exception_before_the_start(run):
    async def main():
        async def app(scope, receive, send):
            if scope["path"] == "/later":
                await asyncio.sleep(0)
            if scope["path"] == "/held":
                await send(START)
            raise KeyError("what")

        def sync_app(scope, receive, send):
            raise KeyError("what")

        for application in (app, sync_app):
            async with Serving(application) as server:
                for path in ("/", "/later", "/held"):
                    response = await server.fetch(get(path))
                    assert (response.status, response.body) == (500, b"Internal Server Error")
                    assert response.header("connection") == "close"
                    (message, error), = server.errors
                    assert message == "Exception in ASGI application" and type(error) is KeyError
                    assert error.__traceback__ is not None
                    server.errors.clear()

    run(main())


def test_exception_after_the_start_cuts_off(run):
    async def main():
        async def app(scope, receive, send):
            await send(START)
            await send({**BODY, "more_body": True})
            raise KeyError("what")

        async with Serving(app) as server:
            data = await server.exchange(get())
            assert data.endswith(b"\r\n\r\n2\r\nok\r\n")  # and no last chunk
            assert len(server.errors) == 1
            server.errors.clear()

    run(main())


def test_exception_after_the_end_harms_nobody(run):
    async def main():
        async def app(scope, receive, send):
            await respond()(scope, receive, send)
            raise KeyError("what")

        async with Serving(app) as server:
            client = await server.connect()
            for _ in range(2):
                assert (await client.fetch(get())).status == 200
            assert len(server.errors) == 2
            server.errors.clear()

    run(main())


@pytest.mark.parametrize("messages, status", [([], 500), ([START], 500), ([START, {**BODY, "more_body": True}], None)])
def test_return_without_completing(run, messages, status):
    async def main():
        async def app(scope, receive, send):
            for message in messages:
                await send(message)

        async with Serving(app) as server:
            data = await server.exchange(get())
            if status is not None:
                assert data.startswith(b"HTTP/1.1 500 ")
            else:
                assert data.endswith(b"2\r\nok\r\n")
            (message, error), = server.errors
            assert "returned without" in message and error is None
            server.errors.clear()

    run(main())


def test_returning_something(run):
    async def main():
        async def app(scope, receive, send):
            await respond()(scope, receive, send)
            return 5

        async with Serving(app) as server:
            assert (await server.fetch(get())).status == 200
            await until(lambda: server.errors)
            assert "returned 5" in str(server.errors[0][1])
            server.errors.clear()

    run(main())


def test_cancelled_application(run):
    async def main():
        async def app(scope, receive, send):
            asyncio.current_task().cancel()
            await asyncio.sleep(1)

        async with Serving(app) as server:
            assert (await server.fetch(get())).status == 500

    run(main())


def test_any_awaitable_will_do(run):
    class Awaitable:
        def __init__(self, *args):
            self._args = args

        def __await__(self):
            return respond()(*self._args).__await__()

    async def main():
        for app in (Awaitable, lambda *args: asyncio.ensure_future(respond()(*args)),
                    lambda *args: asyncio.create_task(respond()(*args))):  # fmt: skip
            async with Serving(app) as server:
                assert (await server.fetch(get())).body == b"ok"

    run(main())


def test_no_awaitable(run):
    async def main():
        async with Serving(lambda scope, receive, send: None) as server:
            assert (await server.fetch(get())).status == 500
            assert type(server.errors[0][1]) is TypeError
            server.errors.clear()

    run(main())


def test_send_after_disconnect_raises_an_oserror(run):
    async def main():
        raised = []
        reached = asyncio.Event()
        gone = asyncio.Event()

        async def app(scope, receive, send):
            await send(START)
            await send({**BODY, "more_body": True})
            reached.set()
            await gone.wait()
            try:
                while True:
                    await send({**BODY, "more_body": True})
                    await asyncio.sleep(0)
            except OSError as error:
                raised.append(error)
                raise

        async with Serving(app) as server:
            for wrapped in (False, True):
                client = await server.connect()
                client.write(get("/wrapped" if wrapped else "/"))
                await reached.wait()
                client.abort()
                gone.set()
                await until(lambda: server.http.tasks == 0)
                reached.clear()
                gone.clear()
        assert [type(error) for error in raised] == [pyloop.ClientDisconnected] * 2
        # and the server has not called it an error: Serving would have said so

    run(main())


def test_disconnect_wrapped_by_the_application_is_no_error(run):
    async def main():
        async def app(scope, receive, send):
            await send(START)
            try:
                while True:
                    await send({**BODY, "more_body": True})
                    await asyncio.sleep(0)
            except OSError:
                if scope["path"] == "/group":
                    raise BaseExceptionGroup("group", [pyloop.ClientDisconnected()]) from None
                raise RuntimeError("my own") from None if scope["path"] == "/none" else RuntimeError("my own")

        async with Serving(app) as server:
            for path in ("/chain", "/group", "/none"):
                client = await server.connect()
                client.write(get(path))
                await client.head()
                client.abort()
                await until(lambda: server.http.tasks == 0)

    run(main())


@pytest.mark.parametrize("path", ["/", "/later"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_leaves_the_loop(new_loop, path, error):
    loop = new_loop()
    server = None

    async def app(scope, receive, send):
        if scope["path"] == "/later":
            await asyncio.sleep(0)
        raise error

    async def main():
        nonlocal server
        server = await Serving(app).__aenter__()
        client = await server.connect()
        client.write(get(path))
        await client.rest()

    task = loop.create_task(main())
    with pytest.raises(error):
        loop.run_until_complete(task)
    loop.run_until_complete(task)  # goes on: the client gets its 500
    loop.run_until_complete(server.__aexit__(None, None, None))
