"""Back-pressure both ways, slow and vanishing peers, the ways a connection ends."""

import asyncio
import socket
import struct

import pytest
from httpkit import Client, Serving, echo, get, post, read_body, respond, until

START = {"type": "http.response.start", "status": 200}


async def slow_client(server):
    """A connection whose receive buffer is small, so that the server's sends soon block."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, server.address)
    return sock


def test_send_waits_for_a_slow_reader(run):
    async def main():
        sent = 0
        piece = b"x" * 100_000

        async def app(scope, receive, send):
            nonlocal sent
            await send(START)
            for _ in range(300):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent += 1
            await send({"type": "http.response.body"})

        async with Serving(app) as server:
            loop = asyncio.get_running_loop()
            sock = await slow_client(server)
            await loop.sock_sendall(sock, get("/", "Connection: close"))
            await until(lambda: sent)
            last = -1
            while sent != last:  # until nothing moves any more
                last = sent
                await asyncio.sleep(0.2)
            assert 0 < sent < 150
            received = b""
            size = 0
            while data := await loop.sock_recv(sock, 1 << 20):
                received = data
                size += len(data)
            sock.close()
            assert received.endswith(b"0\r\n\r\n")
            assert size > 300 * 100_000
            assert sent == 300

    run(main())


def test_disconnect_wakes_a_blocked_send(run):
    async def main():
        outcome = []

        async def app(scope, receive, send):
            await send(START)
            try:
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            except OSError as error:
                outcome.append(error)

        async with Serving(app) as server:
            loop = asyncio.get_running_loop()
            sock = await slow_client(server)
            await loop.sock_sendall(sock, get())
            await asyncio.sleep(0.2)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            await until(lambda: outcome)

    run(main())


def test_cancelled_send_keeps_the_order(run):
    async def main():
        async def app(scope, receive, send):
            await send(START)
            for i in range(20):
                body = b"%d" % (i % 10) * 50_000
                try:
                    await asyncio.wait_for(send({"type": "http.response.body", "body": body, "more_body": True}), 0.01)
                except asyncio.TimeoutError:
                    pass  # it was queued: only the wait for room was given up
            await send({"type": "http.response.body"})

        async with Serving(app) as server:
            loop = asyncio.get_running_loop()
            sock = await slow_client(server)
            await loop.sock_sendall(sock, get("/", version="1.0"))
            await asyncio.sleep(0.2)
            data = b""
            while piece := await loop.sock_recv(sock, 1 << 20):
                data += piece
            sock.close()
            assert data.partition(b"\r\n\r\n")[2] == b"".join(b"%d" % (i % 10) * 50_000 for i in range(20))

    run(main())


def test_reading_stops_while_the_application_does_not_receive(run):
    async def main():
        go = asyncio.Event()

        async def app(scope, receive, send):
            await go.wait()
            size = 0
            more = True
            while more:
                message = await receive()
                size += len(message["body"])
                more = message["more_body"]
            await respond(b"%d" % size)(scope, receive, send)

        async with Serving(app) as server:
            loop = asyncio.get_running_loop()
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, server.address)
            total = 50_000_000
            await loop.sock_sendall(sock, get("/", f"Content-Length: {total}", method="POST"))
            sent = 0

            async def upload():
                nonlocal sent
                piece = b"x" * 100_000
                while sent < total:
                    await loop.sock_sendall(sock, piece)
                    sent += len(piece)

            task = asyncio.create_task(upload())
            await until(lambda: sent)
            last = -1
            while sent != last:
                last = sent
                await asyncio.sleep(0.2)
            assert sent < total / 2  # what fits into socket buffers, and one read
            go.set()
            data = b""
            while not data.endswith(b"\r\n\r\n%d" % total):
                data += await loop.sock_recv(sock, 4096)
            await task
            sock.close()

    run(main())


def test_slow_writer(run):
    async def main():
        async with Serving(echo) as server:
            client = await server.connect()
            data = post(b"0123456789", path="/slow")
            for byte in data:
                client.write(bytes([byte]))
                await asyncio.sleep(0.001)
            assert (await client.response()).body == b"0123456789"

    run(main())


def test_half_closed_client_gets_its_response(run):
    async def main():
        events = []

        async def app(scope, receive, send):
            body = await read_body(receive)
            events.append(await receive())
            await asyncio.sleep(0.05)
            await send(START)
            for _ in range(3):
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await asyncio.sleep(0.01)
            await send({"type": "http.response.body"})

        async with Serving(app) as server:
            client = await server.connect()
            client.write(post(b"abc"))
            client.writer.write_eof()
            assert (await client.response()).body == b"abcabcabc"
            assert await client.rest() == b""
        assert events == [{"type": "http.disconnect"}]

    run(main())


def test_half_closed_client_with_a_pipeline(run):
    async def main():
        async def app(scope, receive, send):
            await asyncio.sleep(0.01)
            await respond(scope["path"].encode())(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/1") + get("/2") + get("/3"))
            client.writer.write_eof()
            for path in (b"/1", b"/2", b"/3"):
                assert (await client.response()).body == path
            assert await client.rest() == b""

    run(main())


def test_half_closed_client_with_half_a_request_in_its_pipeline(run):
    """The end was there before the request began: it is told all the same, and the connection goes."""
    async def main():
        seen = []

        async def app(scope, receive, send):
            if scope["path"] == "/1":
                assert (await receive())["type"] == "http.request"
                assert (await receive())["type"] == "http.disconnect"
                await respond(b"first")(scope, receive, send)
                return
            while not seen or seen[-1]["type"] == "http.request":
                seen.append(await receive())

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/1") + get("/2", "Content-Length: 10", method="POST") + b"abc")
            client.writer.write_eof()
            assert (await client.response()).body == b"first"
            assert await client.rest() == b""
            await until(lambda: server.http.tasks == 0)
        assert seen[-1] == {"type": "http.disconnect"}

    run(main())


def test_half_closed_client_is_over_for_its_whole_pipeline(run):
    async def main():
        async def app(scope, receive, send):
            await read_body(receive)
            assert (await receive())["type"] == "http.disconnect"
            await respond(scope["path"].encode())(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/1") + get("/2"))
            client.writer.write_eof()
            for path in (b"/1", b"/2"):
                assert (await client.response()).body == path
            assert await client.rest() == b""

    run(main())


@pytest.mark.parametrize("request_bytes", [b"", b"GET / HT", get() + b"GET"])
def test_close_between_requests(run, request_bytes):
    async def main():
        async with Serving(respond()) as server:
            client = await server.connect()
            client.write(request_bytes)
            await asyncio.sleep(0.02)
            client.writer.write_eof()
            await client.rest()
            await until(lambda: server.http.connections == 0)

    run(main())


@pytest.mark.parametrize("abort", [False, True])
def test_client_goes_during_the_upload(run, abort):
    async def main():
        seen = []

        async def app(scope, receive, send):
            while not seen or seen[-1]["type"] == "http.request":
                seen.append(await receive())

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 10", method="POST") + b"abc")
            await until(lambda: seen)
            if abort:
                client.abort()
            else:
                client.writer.write_eof()  # nobody can complete this request
            await until(lambda: server.http.tasks == 0)
        assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]

    run(main())


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_application_fails_when_the_stream_has_failed(run, turns):
    """The send of the first answer meets the reset, and the second request is answered with 500 before that is told."""
    async def main():
        async def app(scope, receive, send):
            if scope["path"] == "/large":
                await respond(b"x" * 300_000)(scope, receive, send)
                return
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            for _ in range(turns):
                await asyncio.sleep(0)
            raise ValueError("on purpose")

        async with Serving(app) as server:
            sock = socket.create_connection(server.address)
            sock.sendall(get("/large") + get("/fail"))
            await until(lambda: server.http.requests == 2 and server.http.connections == 0)
            assert [str(error) for _, error in server.errors] == ["on purpose"]
            server.errors.clear()

    run(main())


def test_client_goes_while_reading_is_stopped(run):
    """More than 64 KiB unread: the server does not read, but learns of the reset."""
    async def main():
        outcome = []

        async def app(scope, receive, send):
            await send(START)
            try:
                while True:
                    await asyncio.sleep(0.01)
                    await send({"type": "http.response.body", "body": b"x", "more_body": True})
            except OSError:
                outcome.append(await receive())

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 1000000", method="POST") + b"x" * 500_000)
            await client.head()
            client.abort()
            await until(lambda: outcome)
        assert outcome == [{"type": "http.disconnect"}]

    run(main())


def test_early_response_saves_the_connection_if_little_is_left(run):
    async def main():
        async with Serving(respond(b"early")) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 100000", method="POST"))
            response = await client.response()
            assert (response.body, response.header("connection")) == (b"early", None)
            client.write(b"x" * 100_000)
            assert (await client.fetch(get())).body == b"early"

    run(main())


def test_early_response_ends_the_connection_if_much_is_left(run):
    async def main():
        async with Serving(respond(b"early")) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 100000000", method="POST"))
            assert (await client.response()).body == b"early"
            with pytest.raises(ConnectionError):
                while True:
                    client.write(b"x" * 100_000)
                    await client.writer.drain()
                    await asyncio.sleep(0)

    run(main())


def test_early_response_and_silence(run):
    """The rest of the content never comes: the connection does not stay for ever."""
    async def main():
        async with Serving(respond(b"early")) as server:
            client = await server.connect()
            client.write(get("/", "Content-Length: 10", method="POST"))
            assert (await client.response()).body == b"early"
            assert await client.rest() == b""

    run(main())


def test_large_response_then_close_arrives_whole(run):
    async def main():
        body = b"x" * 5_000_000
        async with Serving(respond(body, headers=[(b"connection", b"close")])) as server:
            loop = asyncio.get_running_loop()
            sock = await slow_client(server)
            await loop.sock_sendall(sock, post(b"y" * 1000) + b"trailing garbage")
            await asyncio.sleep(0.1)
            size = 0
            while data := await loop.sock_recv(sock, 65536):
                size += len(data)
            sock.close()
            assert size > 5_000_000

    run(main())


def test_many_connections_at_once(run):
    async def main():
        async def app(scope, receive, send):
            body = await read_body(receive)
            await asyncio.sleep(0)
            await respond(scope["path"].encode() + body)(scope, receive, send)

        async with Serving(app) as server:
            clients = [await server.connect() for _ in range(200)]

            async def talk(number, client: Client):
                for i in range(10):
                    response = await client.fetch(post(b"-%d" % i, path=f"/{number}"))
                    assert response.body == b"/%d-%d" % (number, i)

            await asyncio.gather(*(talk(number, client) for number, client in enumerate(clients)))
            assert server.http.requests == 2000

    run(main())


def test_slow_receiver_gets_everything_in_order(run):
    async def main():
        data = bytes(range(256)) * 4000
        async with Serving(collect) as server:
            client = await server.connect()
            client.write(post(data))
            response = await client.response()
            assert response.body == data

    async def collect(scope, receive, send):
        body = b""
        more = True
        while more:
            await asyncio.sleep(0.001)
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        await respond(body)(scope, receive, send)

    run(main())


def test_tiny_chunks_are_joined(run):
    """Ten thousand chunks of a byte: few events, all bytes."""
    async def main():
        async def app(scope, receive, send):
            events = 0
            body = b""
            more = True
            while more:
                message = await receive()
                events += 1
                body += message["body"]
                more = message["more_body"]
            await respond(b"%d %d" % (len(body), events < 1000))(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            client.write(get("/", "Transfer-Encoding: chunked", method="POST") + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
            assert (await client.response()).body == b"10000 1"

    run(main())
