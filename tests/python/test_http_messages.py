"""Requests and responses on the wire: framing, fields, keep-alive, pipelining."""

import asyncio
import email.utils
import time

import pytest
from httpkit import Serving, echo, get, post, read_body, respond


def test_single_shot_response(run):
    async def main():
        async with Serving(respond(b"hello", headers=[(b"Content-Type", b"text/plain")])) as server:
            response = await server.fetch(get())
            assert (response.status, response.reason, response.body) == (200, "OK", b"hello")
            assert [name for name, _ in response.headers] == ["content-type", "content-length", "date", "server"]
            assert response.header("content-length") == "5"
            assert response.header("server") == "pyloop"
            date = email.utils.parsedate_to_datetime(response.header("date")).timestamp()
            assert abs(date - time.time()) < 5

    run(main())


def test_own_date_and_server_win(run):
    async def main():
        headers = [(b"date", b"then"), (b"server", b"mine")]
        async with Serving(respond(headers=headers)) as server:
            response = await server.fetch(get())
            assert response.header("date") == "then"
            assert response.header("server") == "mine"

    run(main())


def test_default_headers_off(run):
    async def main():
        async with Serving(respond(), server_header=False, date_header=False) as server:
            response = await server.fetch(get())
            assert response.headers == [("content-length", "2")]

    run(main())


def test_stream_is_chunked_in_11_and_closes_in_10(run):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        for piece in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async def main():
        async with Serving(app) as server:
            data = await server.exchange(get("/", "Connection: close"))
            head, _, body = data.partition(b"\r\n\r\n")
            assert b"transfer-encoding: chunked" in head
            assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
            data = await server.exchange(get(version="1.0") + get())
            head, _, body = data.partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in head and b"connection: close" in head
            assert body == b"onetwo"

    run(main())


def test_head_alone_leaves_at_the_end_of_the_turn(run):
    async def main():
        event = asyncio.Event()

        async def app(scope, receive, send):
            if scope["path"] == "/later":
                await asyncio.sleep(0)
            await send({"type": "http.response.start", "status": 200})
            await event.wait()
            await send({"type": "http.response.body", "body": b"done"})

        async with Serving(app) as server:
            for path in ("/", "/later"):
                event.clear()
                client = await server.connect()
                client.write(get(path))
                assert (await client.head()).status == 200
                event.set()
                assert await client.chunk() == b"done"
                assert await client.chunk() == b""

    run(main())


@pytest.mark.parametrize("size", [0, 1, 1000, 1900, 2000, 2048, 4096, 70_000, 1_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_body_sizes_and_types(run, size, kind):
    data = bytes(i * 7 & 0xFF for i in range(size))

    async def app(scope, receive, send):
        headers = [(b"content-length", b"%d" % size)] if scope["path"] == "/length" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = kind(data)
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": body, "more_body": True})
            if kind is bytearray:
                body[:] = b"x" * size  # it was copied
            body = b""
        await send({"type": "http.response.body", "body": body})

    async def main():
        async with Serving(app) as server:
            client = await server.connect()
            for path in ("/", "/length", "/stream"):
                response = await client.fetch(get(path))
                assert response.body == data

    run(main())


def test_discontiguous_memoryview(run):
    async def main():
        async with Serving(respond(memoryview(b"a-b-c-")[::2])) as server:
            assert (await server.fetch(get())).body == b"abc"

    run(main())


def test_head_request(run):
    async def app(scope, receive, send):
        headers = [(b"content-length", b"5")] if scope["path"] == "/length" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = b"" if scope["path"] == "/empty" else b"hello"
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": body})

    async def main():
        async with Serving(app) as server:
            client = await server.connect()
            for path, length in (("/length", "5"), ("/", "5"), ("/stream", None), ("/empty", None)):
                response = await client.fetch(get(path, method="HEAD"), is_head=True)
                assert response.header("content-length") == length
                assert response.header("transfer-encoding") is None
            # Nothing of a body is in the way of the next response.
            assert (await client.fetch(get("/length"))).body == b"hello"

    run(main())


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_content(run, status):
    async def main():
        app = respond(b"ignored", status, [(b"content-length", b"7"), (b"etag", b'"x"')])
        async with Serving(app) as server:
            client = await server.connect()
            for _ in range(2):
                response = await client.fetch(get())
                assert response.status == status
                assert response.header("content-length") == ("7" if status == 304 else None)
                assert response.header("transfer-encoding") is None

    run(main())


def test_unknown_status(run):
    async def main():
        async with Serving(respond(status=299)) as server:
            response = await server.fetch(get())
            assert (response.status, response.reason) == (299, "")

    run(main())


def test_hop_by_hop_fields_of_the_application(run):
    async def main():
        headers = [(b"transfer-encoding", b"gzip"), (b"connection", b"keep-alive"), (b"x-a", b"1")]
        async with Serving(respond(headers=headers)) as server:
            client = await server.connect()
            for _ in range(2):
                response = await client.fetch(get())
                assert [name for name, _ in response.headers] == ["x-a", "content-length", "date", "server"]

    run(main())


def test_connection_close(run):
    async def main():
        async with Serving(respond(headers=[(b"connection", b"close")])) as server:
            data = await server.exchange(get() + get())
            assert data.count(b"HTTP/1.1 200") == 1 and b"connection: close" in data
        async with Serving(respond()) as server:
            data = await server.exchange(get("/", "Connection: close") + get())
            assert data.count(b"HTTP/1.1 200") == 1 and b"connection: close" in data
            data = await server.exchange(get(version="1.0"))
            assert b"connection: close" in data

    run(main())


def test_keep_alive(run):
    async def main():
        async with Serving(respond()) as server:
            client = await server.connect()
            for _ in range(5):
                response = await client.fetch(get())
                assert response.header("connection") is None
            for _ in range(2):
                response = await client.fetch(get("/", "Connection: keep-alive", version="1.0"))
                assert response.header("connection") == "keep-alive"
            assert server.http.connections == 1
            assert server.http.requests == 7

    run(main())


def test_pipelining_keeps_order(run):
    async def app(scope, receive, send):
        body = await read_body(receive)
        if scope["path"].startswith("/slow"):
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": scope["path"].encode() + body})

    async def main():
        async with Serving(app) as server:
            client = await server.connect()
            paths = ["/slow/1", "/2", "/3", "/slow/4", "/5"]
            client.write(b"".join(post(b"+%d" % i, path=path) for i, path in enumerate(paths)))
            for i, path in enumerate(paths):
                assert (await client.response()).body == f"{path}+{i}".encode()

    run(main())


def test_pipelined_responses_leave_together(run):
    """A thousand requests in one piece: far fewer reads than responses."""
    async def main():
        async with Serving(respond()) as server:
            client = await server.connect()
            client.write(get() * 1000)
            data, reads = b"", 0
            while data.count(b"\r\n\r\nok") < 1000:
                data += await client.reader.read(1 << 20)
                reads += 1
            assert reads < 100

    run(main())


def test_deep_pipeline_of_slow_requests(run):
    """More than is kept for later: reading pauses, nothing is lost."""
    async def app(scope, receive, send):
        await asyncio.sleep(0)
        await respond(scope["path"].encode())(scope, receive, send)

    async def main():
        async with Serving(app) as server:
            client = await server.connect()
            client.write(b"".join(get(f"/{i}") for i in range(20_000)))
            for i in range(20_000):
                assert (await client.response()).body == b"/%d" % i

    run(main())


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 50, 100])
def test_requests_in_pieces(run, cut):
    async def app(scope, receive, send):
        body = await read_body(receive)
        names = b",".join(name for name, _ in scope["headers"])
        await respond(scope["raw_path"] + b" " + names + b" " + body)(scope, receive, send)

    request = post(b"content", "X-Field: value", path="/some/path")
    chunked = (get("/c", "Transfer-Encoding: chunked", method="POST") +
               b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Sum: dropped\r\n\r\n")

    async def main():
        async with Serving(app) as server:
            client = await server.connect()
            data = request + chunked + request
            for start in range(0, len(data), cut):
                client.write(data[start:start + cut])
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert (await client.response()).body == b"/some/path host,content-length,x-field content"
            assert (await client.response()).body == b"/c host,transfer-encoding abcdefg"
            assert (await client.response()).body == b"/some/path host,content-length,x-field content"

    run(main())


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000, 3_000_000])
def test_echo(run, size):
    data = bytes(i * 11 & 0xFF for i in range(1000)) * (size // 1000) + b"x" * (size % 1000)

    async def main():
        async with Serving(echo) as server:
            client = await server.connect()
            assert (await client.fetch(post(data))).body == data
            client.write(get("/", "Transfer-Encoding: chunked", method="POST"))
            for start in range(0, size, 40_000):
                piece = data[start:start + 40_000]
                client.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.write(b"0\r\n\r\n")
            assert (await client.response()).body == data

    run(main())


def test_expect_continue(run):
    async def main():
        begun = asyncio.Event()

        async def app(scope, receive, send):
            begun.set()
            if scope["path"] == "/read":
                await asyncio.sleep(0.01)
                await respond(await read_body(receive))(scope, receive, send)
            else:
                await respond(b"no", 403)(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/read", "Expect: 100-continue", "Content-Length: 3", method="PUT"))
            assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.write(b"abc")
            assert (await client.response()).body == b"abc"
            # The content came along: no need to ask.
            assert (await client.fetch(post(b"xyz", "Expect: 100-continue", path="/read"))).body == b"xyz"
            # Never read: never asked for, and the connection ends, because nobody knows whether it comes.
            client.write(get("/refuse", "Expect: 100-continue", "Content-Length: 3", method="PUT"))
            response = await client.response()
            assert (response.status, response.header("connection")) == (403, "close")
            assert await client.rest() == b""
            # HTTP/1.0 knows nothing of it.
            client = await server.connect()
            client.write(b"PUT /read HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
            begun.clear()
            await begun.wait()
            await asyncio.sleep(0.05)
            client.write(b"x")
            assert (await client.response()).body == b"x"

    run(main())


def test_upgrade_is_ignored(run):
    async def main():
        async with Serving(respond()) as server:
            client = await server.connect()
            fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
            assert (await client.fetch(get("/", *fields))).body == b"ok"
            assert (await client.fetch(post(b"abc", "Connection: Upgrade", "Upgrade: h2c"))).body == b"ok"
            assert (await client.fetch(get())).body == b"ok"

    run(main())


def test_many_and_long_response_headers(run):
    headers = [(b"x-%d" % i, b"v" * 100) for i in range(500)]

    async def main():
        async with Serving(respond(b"b" * 5000, headers=headers)) as server:
            client = await server.connect()
            for _ in range(2):
                response = await client.fetch(get())
                assert response.headers[:500] == [(f"x-{i}", "v" * 100) for i in range(500)]
                assert response.body == b"b" * 5000

    run(main())
