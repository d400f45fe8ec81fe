"""`python -m pyloop.run` as its users see it: a process, its output, its exit status."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request

import pytest
from process_kit import environment

import pyloop

APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "service.py").write_text(APP)
    return tmp_path


def start(folder, *arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "pyloop.run", *arguments], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), **options)


def finish(folder, *arguments, **options):
    """Exit status, stdout, stderr."""
    process = start(folder, *arguments, **options)
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, out, err


class Server:
    """Started with --port 0; knows its address."""

    def __init__(self, folder, *arguments, **options):
        if not {"--uds", "--fd", "--port"} & set(arguments):
            arguments = (*arguments, "--port", "0")
        self.process = start(folder, *arguments, **options)
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            if match := re.search(r"Listening on (\S+) \((\w+)\)", line):
                self.url, self.backend = match.groups()
                return
        raise AssertionError(f"did not start: {self.lines}, {self.process.wait()}")

    def get(self, path="/"):
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return response.read()

    def end(self, number=signal.SIGINT):
        """Exit status, stdout, the rest of stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.kill()
        self.process.communicate()


def test_serves_and_ends_with_sigint(folder, backend):
    with Server(folder, "service:app", "--backend", backend) as server:
        assert server.backend == backend
        assert server.get("/hello") == b"/hello"
        status, out, err = server.end()
        assert status == 0
        assert re.fullmatch(r'INFO:     127\.0\.0\.1:\d+ - "GET /hello HTTP/1\.1" 200 OK\n', out)
        assert "Traceback" not in err


def test_dies_by_sigterm_after_an_orderly_end(folder):
    with Server(folder, "service:app") as server:
        status, _, err = server.end(signal.SIGTERM)
        assert status == -signal.SIGTERM
        assert "Shutting down" in err


def test_second_sigint_forces(folder):
    (folder / "slow.py").write_text(textwrap.dedent("""
        import asyncio
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            print("begun", flush=True)
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(100)
    """))
    with Server(folder, "slow:app") as server:
        host, port = server.url.removeprefix("http://").split(":")
        client = socket.create_connection((host, int(port)))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.process.stdout.readline() == "begun\n"
        server.process.send_signal(signal.SIGINT)
        for line in server.process.stderr:
            if "Waiting for 1 connection(s) and 1 request(s)" in line:
                break
        start = time.monotonic()
        status, _, _ = server.end()
        assert status == 0
        assert time.monotonic() - start < 20
        client.close()


def test_graceful_timeout(folder):
    (folder / "slow.py").write_text(textwrap.dedent("""
        import asyncio
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            print("begun", flush=True)
            await asyncio.sleep(100)
    """))
    with Server(folder, "slow:app", "--timeout-graceful-shutdown", "0.2") as server:
        host, port = server.url.removeprefix("http://").split(":")
        client = socket.create_connection((host, int(port)))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.process.stdout.readline() == "begun\n"
        status, out, err = server.end(signal.SIGTERM)
        assert "Cancelled 1 running request(s)" in err
        assert status == -signal.SIGTERM
        client.settimeout(10)
        assert client.recv(100).startswith(b"HTTP/1.1 500 ")
        client.close()


@pytest.mark.parametrize("arguments, status, message", [
    ([], 2, "which application"),
    (["service"], 2, "not of the form MODULE:ATTRIBUTE"),
    (["nowhere:app"], 2, 'could not import module "nowhere"'),
    (["nowhere.deep:app"], 2, 'could not import module "nowhere.deep"'),
    (["service:nothing"], 2, 'attribute "nothing" not found in module "service"'),
    (["service:app.nothing"], 2, 'attribute "app.nothing" not found'),
    (["broken:app"], 2, 'importing module "broken" failed: ValueError: broken'),
    (["missing:app"], 2, "No module named 'not_there'"),
    (["service:__name__"], 2, "neither an ASGI application nor an async function"),
    (["service:make"], 2, "neither an ASGI application"),
    (["service:app", "--factory"], 2, 'the factory "service:app" failed: TypeError'),
    (["service:__name__", "--factory"], 2, "is not a factory"),
    (["service:app", "--interface", "main"], 2, "not a function without required arguments"),
    (["service:__name__", "--interface", "asgi"], 2, "not an ASGI application"),
    (["service:app", "--nonsense"], 2, "unrecognized arguments: --nonsense"),
    (["service:app", "--port", "http"], 2, "invalid port number value"),
    (["service:app", "--port", "65536"], 2, "invalid port number value"),
    (["service:app", "--interface", "wsgi"], 2, "invalid choice: 'wsgi'"),
    (["service:app", "--workers", "2"], 2, "one process"),
    (["service:app", "--ssl-keyfile", "x"], 2, "--ssl-keyfile is an option of uvicorn that pyloop does not have"),
    (["service:app", "--backend", "kqueue"], 2, "kqueue"),
    (["service:app", "--host", "host.invalid"], 3, "cannot resolve host 'host.invalid'"),
    (["service:app", "--fd", "77"], 3, "file descriptor 77 is not a usable socket"),
    (["service:app", "--uds", "no/such/folder/x.sock"], 3, "cannot listen on no/such/folder/x.sock"),
    (["service:app", "--lifespan", "on"], 3, "application startup failed: RuntimeError: only http"),
])
def test_errors_are_one_line(folder, arguments, status, message):
    (folder / "broken.py").write_text("raise ValueError('broken')")
    (folder / "missing.py").write_text("import not_there")
    with (folder / "service.py").open("a") as file:
        file.write("\ndef make():\n    return app\n")
    got, out, err = finish(folder, *arguments, "--log-level", "error")
    assert (got, out) == (status, "")
    assert err.count("\n") == 1 and err.startswith("error: ") and message in err


def test_debug_shows_the_traceback(folder):
    (folder / "broken.py").write_text("raise ValueError('broken')")
    status, _, err = finish(folder, "broken:app", "--log-level", "debug")
    assert status == 2
    assert "Traceback" in err and err.endswith('failed: ValueError: broken\n')


def test_port_in_use(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = finish(folder, "service:app", "--port", str(port))
        assert status == 3
        assert err == f"error: cannot listen on http://127.0.0.1:{port}: Address already in use\n"


def test_options_of_uvicorn(folder):
    with Server(folder, "service:app", "--loop", "uvloop", "--http", "httptools", "--ws", "none", "--workers", "1",
                "--h11-max-incomplete-event-size", "1", "--no-use-colors", "--proxy-headers") as server:
        assert server.get() == b"/"
        warnings = [line for line in server.lines if line.startswith("WARNING:")]
        assert [line.split()[1] for line in warnings] == [
            "--loop", "--http", "--ws", "--h11-max-incomplete-event-size", "--no-use-colors", "--proxy-headers"]


@pytest.mark.parametrize("arguments", [["--no-access-log"], ["--log-level", "warning"]])
def test_no_access_log_and_quiet(folder, arguments):
    # A quiet server does not say when it listens: this socket listens already.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        process = start(folder, "service:app", "--fd", str(fd), *arguments, pass_fds=[fd])
        try:
            with socket.create_connection(listening.getsockname(), timeout=30) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert out == ""
    if "warning" in arguments:
        assert err == ""


def test_unix_socket(folder):
    path = folder / "web.sock"
    with Server(folder, "service:app", "--uds", str(path)) as server:
        assert server.url == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o666
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        client.settimeout(10)
        assert b"/x" in client.recv(1000)
        client.close()
        status, out, _ = server.end()
        assert status == 0
        assert out == 'INFO:     - - "GET /x HTTP/1.1" 200 OK\n'
    assert not path.exists()
    # One that was left over is taken over.
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with Server(folder, "service:app", "--uds", str(path)):
        pass


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_inherited_socket(folder, family):
    with socket.socket(family) as sock:
        sock.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(folder / "fd.sock"))
        sock.listen()
        fd = str(sock.fileno())
        with Server(folder, "service:app", "--fd", fd, pass_fds=[sock.fileno()]):
            with socket.socket(family) as client:
                client.connect(sock.getsockname())
                client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                client.settimeout(10)
                assert b"/x" in client.recv(1000)


def test_localhost_listens_on_every_address(folder):
    with Server(folder, "service:app", "--host", "localhost") as server:
        assert server.get("/x") == b"/x"


def test_factory_dotted_attribute_and_app_dir(folder):
    deep = folder / "deep"
    deep.mkdir()
    (deep / "inner.py").write_text(APP + textwrap.dedent("""
        class Holder:
            inner = None
        def make():
            return app
        Holder.inner = Holder()
        Holder.inner.app = app
    """))
    for arguments in (["inner:make", "--factory"], ["inner:Holder.inner.app"]):
        with Server(folder, *arguments, "--app-dir", "deep") as server:
            assert server.get("/y") == b"/y"


def test_kinds_of_applications(folder):
    (folder / "kinds.py").write_text(APP + textwrap.dedent("""
        class Two:
            def __init__(self, scope):
                self.scope = scope
            async def __call__(self, receive, send):
                await app(self.scope, receive, send)

        def two(scope):
            return Two(scope)

        class Three:
            async def __call__(self, scope, receive, send):
                await app(scope, receive, send)

        def wrapped(scope, receive, send):
            return app(scope, receive, send)

        class Awaited:
            def __init__(self, scope, receive, send):
                self.args = scope, receive, send
            def __await__(self):
                return app(*self.args).__await__()

        three = Three()
    """))
    for name in ("Two", "two", "three", "wrapped", "Awaited"):
        with Server(folder, f"kinds:{name}", "--log-level", "info") as server:
            assert server.get(f"/{name}") == f"/{name}".encode()


def test_root_path(folder):
    with Server(folder, "service:app", "--root-path", "/api") as server:
        assert server.get("/x") == b"/api/x"


def test_application_error_is_logged_with_traceback(folder):
    (folder / "fails.py").write_text("async def app(scope, receive, send):\n    raise ValueError('my mistake')\n")
    with Server(folder, "fails:app") as server:
        with pytest.raises(urllib.error.HTTPError):
            server.get()
        status, out, err = server.end()
        assert "Exception in ASGI application" in err
        assert "ValueError: my mistake" in err and 'fails.py", line 2' in err
        assert out.rstrip().endswith('"GET / HTTP/1.1" 500 Internal Server Error')


def test_refused_request_in_the_access_log(folder):
    with Server(folder, "service:app") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"BAD\r\n\r\n")
            client.settimeout(10)
            while client.recv(1000):
                pass
        _, out, _ = server.end()
        assert re.fullmatch(r'INFO:     127\.0\.0\.1:\d+ - "-" 501 Not Implemented \(Invalid method\)\n', out)


# main()


def test_main_function(folder):
    (folder / "program.py").write_text(textwrap.dedent("""
        import asyncio, sys
        async def main(greeting="hello"):
            loop = asyncio.get_running_loop()
            print(greeting, type(loop).__module__, sys.argv)
        async def five():
            return 5
        async def fails():
            raise ValueError("my mistake")
        def plain():
            return main("plain")
    """))
    assert finish(folder, "program:main", "-x", "a", "--", "--port", "1") == (
        0, "hello pyloop._loop ['program:main', '-x', 'a', '--port', '1']\n", "")
    assert finish(folder, "program:five")[0] == 5
    status, _, err = finish(folder, "program:fails")
    assert status == 1 and "my mistake" in err and "Traceback" in err
    assert finish(folder, "program:plain", "--interface", "main")[:2] == (0, "plain pyloop._loop ['program:plain']\n")


def test_main_function_interrupted(folder):
    (folder / "program.py").write_text(textwrap.dedent("""
        import asyncio
        async def main():
            try:
                print("ready", flush=True)
                await asyncio.sleep(100)
            finally:
                print("cleaned up", flush=True)
    """))
    process = start(folder, "program:main")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "cleaned up\n")
    assert "Traceback" not in err


def test_run_is_function_and_module():
    code = textwrap.dedent("""
        import asyncio, pyloop
        async def main():
            return type(asyncio.get_running_loop()).__name__
        assert pyloop.run(main()) == "Loop"
        function = pyloop.run
        import pyloop.run
        assert pyloop.run(main()) == "Loop" and function(main()) == "Loop"
        from pyloop import run
        from pyloop.run import main as command_line
        assert run(main(), debug=True) == "Loop" and callable(command_line)
    """)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=60)


def test_help_and_version(folder):
    status, out, _ = finish(folder, "--help")
    assert status == 0 and "--timeout-graceful-shutdown" in out and "--loop " not in out
    assert finish(folder, "--version") == (0, f"pyloop {pyloop.__version__}\n", "")


@pytest.mark.parametrize("has_fastapi", [True, False])
def test_demo(folder, has_fastapi):
    if has_fastapi:
        pytest.importorskip("fastapi")
    else:
        (folder / "fastapi.py").write_text("raise ImportError")
    with Server(folder, "pyloop.demo:app") as server:
        assert server.get("/") == b"Hello from pyloop!\n"
        assert (b'"none"' in server.get("/json")) is not has_fastapi
        assert server.get("/stream") == b"".join(b"piece %d\n" % i for i in range(10))
        data = os.urandom(1_000_000)
        for path in ("/echo", "/upload"):
            request = urllib.request.Request(server.url + path, data, {"content-type": "application/x"})
            with urllib.request.urlopen(request, timeout=20) as response:
                body = response.read()
            assert body == data if path == "/echo" else b'"size":1000000' in body.replace(b" ", b"")
