"""What the server answers by itself: malformed requests, limits, timeouts. The application never sees them."""

import asyncio

import pytest
from httpkit import Serving, get, post, respond


async def never(scope, receive, send):
    raise AssertionError(f"reached the application: {scope}")


H = b"Host: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n"

REFUSED = {
    "noise": (400, b"\x16\x03\x01\x02\x00\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\n" + H + H + b"\r\n"),
    "invalid host": (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "other host in target": (400, b"GET http://b/ HTTP/1.1\r\n" + H + b"\r\n"),
    "fragment": (400, b"GET /#a HTTP/1.1\r\n" + H + b"\r\n"),
    "asterisk": (400, b"GET * HTTP/1.1\r\n" + H + b"\r\n"),
    "connect": (501, b"CONNECT a:1 HTTP/1.1\r\n" + H + b"\r\n"),
    "unknown method": (501, b"BREW / HTTP/1.1\r\n" + H + b"\r\n"),
    "version": (505, b"GET / HTTP/2.0\r\n" + H + b"\r\n"),
    "http/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "rtsp": (505, b"OPTIONS * RTSP/1.0\r\n\r\n"),
    "length and coding": (400, CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    "coding": (501, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "coding in 1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "bare lf": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "folding": (400, b"GET / HTTP/1.1\r\n" + H + b"a: b\r\n c\r\n\r\n"),
    "space before colon": (400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    "nul": (400, b"GET / HTTP/1.1\r\n" + H + b"a: \x00\r\n\r\n"),
    "long line": (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n"),
    "endless line": (414, b"GET /" + b"a" * 100_000),
    "large head": (431, b"GET / HTTP/1.1\r\n" + H + b"a: " + b"b" * 70_000 + b"\r\n\r\n"),
    "many fields": (431, b"GET / HTTP/1.1\r\n" + H + b"a: b\r\n" * 101 + b"\r\n"),
    "chunk in the same piece": (400, CHUNKED + b"\r\nzz\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(run, name):
    status, data = REFUSED[name]

    async def main():
        async with Serving(never) as server:
            client = await server.connect()
            client.write(data + get())  # what follows is not served either
            response = await client.response()
            assert response.status == status
            assert response.header("connection") == "close"
            assert response.header("content-type") == "text/plain; charset=utf-8"
            assert await client.rest() == b""
            assert server.http.requests == 0

    run(main())


def test_refused_behind_a_good_request(run):
    async def app(scope, receive, send):
        await asyncio.sleep(0.01)
        await respond(scope["path"].encode())(scope, receive, send)

    async def main():
        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/good") + b"BAD\r\n\r\n")
            assert (await client.response()).body == b"/good"
            assert (await client.response()).status == 501
            assert await client.rest() == b""

    run(main())


def test_malformed_content_before_the_response(run):
    async def main():
        seen = []

        async def app(scope, receive, send):
            while True:
                seen.append(await receive())
                if seen[-1]["type"] == "http.disconnect":
                    return

        async with Serving(app) as server:
            client = await server.connect()
            client.write(CHUNKED + b"\r\n3\r\nabc\r\n")
            while not seen:
                await asyncio.sleep(0)
            client.write(b"zz\r\n")
            assert (await client.response()).status == 400
            assert await client.rest() == b""
        assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]
        assert seen[0]["body"] == b"abc"

    run(main())


def test_malformed_content_during_the_response(run):
    async def main():
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            assert (await receive())["type"] == "http.disconnect"

        async with Serving(app) as server:
            client = await server.connect()
            client.write(CHUNKED + b"\r\n")
            assert (await client.head()).status == 200
            assert await client.chunk() == b"part"
            client.write(b"zz\r\n")
            assert await client.rest() == b""  # cut off: no last chunk

    run(main())


def test_body_limit(run):
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await respond()(scope, receive, send)

    async def main():
        async with Serving(app, limit_body_size=1000) as server:
            assert (await server.fetch(post(b"x" * 1000))).status == 200
            assert (await server.fetch(post(b"x" * 1001))).status == 413
            chunk = b"64\r\n" + b"x" * 100 + b"\r\n"
            assert (await server.fetch(CHUNKED + b"\r\n" + chunk * 10 + b"0\r\n\r\n")).status == 200
            assert (await server.fetch(CHUNKED + b"\r\n" + chunk * 11 + b"0\r\n\r\n")).status == 413

    run(main())


def test_concurrency_limit(run):
    async def main():
        event = asyncio.Event()

        async def app(scope, receive, send):
            await event.wait()
            await respond()(scope, receive, send)

        async with Serving(app, limit_concurrency=2) as server:
            first, second = await server.connect(), await server.connect()
            first.write(get())
            second.write(get())
            while server.http.tasks < 2:
                await asyncio.sleep(0)
            third = await server.connect()
            response = await third.fetch(get())
            assert (response.status, response.header("connection")) == (503, "close")
            assert await third.rest() == b""
            event.set()
            assert (await first.response()).status == 200
            assert (await second.response()).status == 200
            await third.close()
            assert (await first.fetch(get())).status == 200

    run(main())


def test_keep_alive_timeout(run):
    async def main():
        async with Serving(respond(), timeout_keep_alive=0.2) as server:
            client = await server.connect()
            loop = asyncio.get_running_loop()
            for _ in range(2):
                assert (await client.fetch(get())).status == 200
                start = loop.time()
            assert await client.rest() == b""
            assert 0.15 < loop.time() - start < 5

    run(main())


def test_head_timeout(run):
    async def main():
        async with Serving(respond(), timeout_headers=0.2) as server:
            silent = await server.connect()
            assert await silent.rest() == b""
            slow = await server.connect()
            slow.write(b"GET / HTTP/1.1\r\nHos")
            assert (await slow.response()).status == 408
            assert await slow.rest() == b""
            # Also behind a first request.
            slow = await server.connect()
            assert (await slow.fetch(get())).status == 200
            slow.write(b"G")
            assert (await slow.response()).status == 408

    run(main())


def test_a_request_in_progress_has_no_timeout(run):
    async def app(scope, receive, send):
        await asyncio.sleep(1.2)
        await respond()(scope, receive, send)

    async def main():
        async with Serving(app, timeout_headers=0.1, timeout_keep_alive=0.1) as server:
            assert (await server.fetch(get())).status == 200

    run(main())


def test_refused_peer_that_keeps_sending(run):
    """The answer arrives although the peer never stops: bounded, and without a reset before it."""
    async def main():
        async with Serving(never) as server:
            client = await server.connect()
            client.write(b"BAD\r\n\r\n" + b"x" * 300_000)
            response = await client.response()
            assert response.status == 501
            assert await client.rest() == b""

    run(main())
