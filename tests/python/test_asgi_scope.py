"""The scope: exact types and values, fresh for each request."""

import asyncio
import socket

import pytest
from httpkit import Serving, get, post, respond


class Recorder:
    def __init__(self):
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        await respond()(scope, receive, send)


def scope_of(run, data, sock=None, **options):
    async def main():
        app = Recorder()
        async with Serving(app, sock=sock, **options) as server:
            client = await server.connect()
            assert (await client.fetch(data, is_head=data.startswith(b"HEAD"))).status == 200
            scope, = app.scopes
            return scope, server.address, client.writer.get_extra_info("sockname")

    return run(main())


def test_whole_scope(run):
    scope, server, client = scope_of(run, get("/a%20b?c=%20d", "X-One: 1", "Accept:", "x-ONE: 2"))
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=%20d",
        "root_path": "",
        "headers": [(b"host", b"a"), (b"x-one", b"1"), (b"accept", b""), (b"x-one", b"2")],
        "client": tuple(client),
        "server": tuple(server),
    }
    for name, kind in {"type": str, "method": str, "path": str, "raw_path": bytes, "query_string": bytes}.items():
        assert type(scope[name]) is kind
    assert [type(part) for part in scope["client"]] == [str, int]
    assert [type(part) for part in scope["server"]] == [str, int]


def test_version_and_method(run):
    scope, _, _ = scope_of(run, b"POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
    assert (scope["http_version"], scope["method"]) == ("1.0", "POST")
    for method in ("HEAD", "OPTIONS", "PATCH", "QUERY", "M-SEARCH"):
        scope, _, _ = scope_of(run, get(method=method))
        assert scope["method"] == method


@pytest.mark.parametrize("target, path, raw, query", [
    ("/", "/", b"/", b""),
    ("/?", "/", b"/", b""),
    ("/a?b?c", "/a", b"/a", b"b?c"),
    ("//a//b", "//a//b", b"//a//b", b""),
    ("/a/../b", "/a/../b", b"/a/../b", b""),
    ("/%2F%00%0d%0a", "//\0\r\n", b"/%2F%00%0d%0a", b""),
    ("/%c3%a9", "/é", b"/%c3%a9", b""),
    ("/%e2%82%ac%F0%9F%8E%89", "/€🎉", b"/%e2%82%ac%F0%9F%8E%89", b""),
    ("/%ff", "/\ufffd", b"/%ff", b""),
    ("/%c0%af", "/\ufffd\ufffd", b"/%c0%af", b""),
    ("/%", "/%", b"/%", b""),
    ("/%4", "/%4", b"/%4", b""),
    ("/%zz%41", "/%zzA", b"/%zz%41", b""),
    ("http://a/x?y", "/x", b"/x", b"y"),
    ("http://a", "/", b"/", b""),
    ("http://a?q", "/", b"/", b"q"),
])
def test_paths(run, target, path, raw, query):
    scope, _, _ = scope_of(run, get(target))
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw, query)


def test_asterisk(run):
    scope, _, _ = scope_of(run, get("*", method="OPTIONS"))
    assert (scope["path"], scope["raw_path"]) == ("*", b"*")


def test_long_path(run):
    path = "/" + "%41b" * 1500
    scope, _, _ = scope_of(run, get(path))
    assert scope["path"] == "/" + "Ab" * 1500
    assert scope["raw_path"] == path.encode()


def test_root_path(run):
    scope, _, _ = scope_of(run, get("/x%20y"), root_path="/r")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/r", "/r/x y", b"/r/x%20y")


def test_known_and_unknown_header_names(run):
    names = ["Host", "USER-AGENT", "aCCept-EncodinG", "X-Unknown-Thing", "Sec-Fetch-Mode", "x", "^_`|~!#$%&'*+.",
             "Cookie", "Cooki", "Cookies", "X_Under"]  # fmt: skip
    data = "".join(["GET / HTTP/1.1\r\n", *(f"{name}: v\r\n" for name in names), "\r\n"]).encode()
    scope, _, _ = scope_of(run, data)
    assert scope["headers"] == [(name.lower().encode(), b"v") for name in names]


def test_header_values_are_exact_bytes(run):
    scope, _, _ = scope_of(run, b"GET / HTTP/1.1\r\nhost: a\r\nx: \t \xe9\xff a\t b \t\r\n\r\n")
    assert scope["headers"][1] == (b"x", b"\xe9\xff a\t b")


def test_unix_socket(run, tmp_path):
    path = str(tmp_path / "http.sock")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    scope, _, _ = scope_of(run, get(), sock)
    assert (scope["client"], scope["server"]) == (None, (path, None))


def test_ipv6(run):
    sock = socket.socket(socket.AF_INET6)
    try:
        sock.bind(("::1", 0))
    except OSError:
        sock.close()
        pytest.skip("no IPv6 here")
    scope, address, client = scope_of(run, get(), sock)
    assert scope["server"] == ("::1", address[1])
    assert scope["client"] == ("::1", client[1])


def test_wildcard_address(run):
    async def main():
        sock = socket.socket()
        sock.bind(("0.0.0.0", 0))
        app = Recorder()
        async with Serving(app, sock=sock) as server:
            server.address = ("127.0.0.1", server.address[1])
            await server.fetch(get())
            assert app.scopes[0]["server"] == server.address

    run(main())


def test_state_is_a_shallow_copy(run):
    async def main():
        shared = []
        state = {"shared": shared}

        async def app(scope, receive, send):
            assert scope["state"] == {"shared": shared}
            scope["state"]["mine"] = 1
            scope["state"]["shared"].append(scope["path"])
            await respond()(scope, receive, send)

        async with Serving(app, state=state) as server:
            client = await server.connect()
            for path in ("/1", "/2"):
                await client.fetch(get(path))
        assert state == {"shared": ["/1", "/2"]}

    run(main())


def test_nothing_leaks_into_the_next_scope(run):
    async def main():
        async def app(scope, receive, send):
            assert "extra" not in scope and "extra" not in scope["asgi"] and "state" not in scope
            scope["extra"] = scope["asgi"]["extra"] = 1
            scope["headers"].append((b"extra", b"1"))
            scope["type"] = scope["method"] = "changed"
            assert len(scope["headers"]) == 2
            await respond()(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            for _ in range(3):
                assert (await client.fetch(get())).status == 200

    run(main())


def test_each_request_has_a_context_of_its_own(run):
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")

    async def main():
        seen = []

        def app(scope, receive, send):  # runs before the coroutine: the same context
            seen.append(variable.get())
            variable.set("call")
            return inner(scope, receive, send)

        async def inner(scope, receive, send):
            seen.append(variable.get())
            variable.set("coroutine")
            await asyncio.sleep(0)
            seen.append(variable.get())
            await respond()(scope, receive, send)

        variable.set("server")
        async with Serving(app) as server:
            variable.set("later")
            client = await server.connect()
            for _ in range(2):
                await client.fetch(get())
            assert seen == ["server", "call", "coroutine"] * 2
            assert variable.get() == "later"

    run(main())


def test_current_task(run):
    async def main():
        tasks = []

        async def app(scope, receive, send):
            tasks.append(asyncio.current_task())
            assert isinstance(tasks[-1], asyncio.Task)
            if scope["path"] == "/wait":
                await asyncio.sleep(0)
                assert asyncio.current_task() is tasks[-1]
            await respond()(scope, receive, send)

        async with Serving(app) as server:
            client = await server.connect()
            await client.fetch(get())
            await client.fetch(get("/wait"))
            await client.fetch(post(b""))
        assert len(set(map(id, tasks))) == 3

    run(main())


def test_kept_header_pairs_never_mix(run):
    """More different fields than are kept, again and again: each request sees its own."""
    async def main():
        app = Recorder()
        async with Serving(app) as server:
            client = await server.connect()
            for i in range(1000):
                value = f"v{i % 400}"
                fields = [f"X-{i % 3}: {value}", f"cookie: {value}", "Y: " + "y" * (i % 300), f"x-{i % 3}:"]
                await client.fetch(get("/", *fields))
                assert app.scopes.pop()["headers"] == [
                    (b"host", b"a"), (b"x-%d" % (i % 3), value.encode()), (b"cookie", value.encode()),
                    (b"y", b"y" * (i % 300)), (b"x-%d" % (i % 3), b"")]

    run(main())
