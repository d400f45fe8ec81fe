"""The one-line switches of the README for servers: each real server answers a request from a pyloop loop."""

import http.client
import signal
import socket
import subprocess
import sys
import sysconfig

import pytest
from process_kit import TIMEOUT, environment, serving

APPLICATION = """
import asyncio

async def app(scope, receive, send):
    assert scope["type"] == "http"
    loop = asyncio.get_running_loop()
    words = [type(loop).__module__, getattr(loop, "backend", "none"), scope["path"]]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": " ".join(words).encode()})
"""

AIOHTTP = """
import asyncio
import socket
import sys

import pyloop
from aiohttp import web

async def answer(request):
    loop = asyncio.get_running_loop()
    return web.Response(text=" ".join([type(loop).__module__, loop.backend, request.path]))

app = web.Application()
app.router.add_get("/{name:.*}", answer)

if __name__ == "__main__":
    web.run_app(app, sock=socket.socket(fileno=int(sys.argv[1])), loop=pyloop.new_event_loop())
"""

HYPERCORN = """
import asyncio
import signal
import sys

import pyloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from service import app

async def main():
    config = Config()
    config.bind = ["fd://" + sys.argv[1]]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(app, config, shutdown_trigger=stop.wait)

with asyncio.Runner(loop_factory=pyloop.new_event_loop) as runner:
    runner.run(main())
"""

GRANIAN = """
import os
import pathlib
import socket
import pyloop.granian
from granian import Granian
from granian.constants import Interfaces, Loops

if __name__ == "__main__":
    server = Granian("service:app", uds=pathlib.Path("granian.sock"), interface=Interfaces.ASGI,
                     loop=Loops.auto, log_enabled=False)

    @server.on_startup
    def tell():
        # Its workers listen when they are up; listening before makes an early client wait.
        with socket.socket(fileno=os.dup(server._sfd)) as sock:
            sock.listen()
        print("listening", flush=True)

    server.serve()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "service.py").write_text(APPLICATION)
    return tmp_path


def test_uvicorn_by_name(folder, backend):
    pytest.importorskip("uvicorn", minversion="0.36")
    with serving(folder, "-m", "uvicorn", "service:app", "--loop", "pyloop:new_event_loop", "--fd", "{fd}",
                 PYLOOP_BACKEND=backend) as get:
        assert get("/hello") == f"pyloop._loop {backend} /hello"


def test_uvicorn_in_code_with_reading_from_the_environment(folder):
    pytest.importorskip("uvicorn", minversion="0.36")
    with serving(folder, "-m", "uvicorn", "service:app", "--fd", "{fd}",
                 UVICORN_LOOP="pyloop:new_event_loop") as get:
        assert get().startswith("pyloop._loop ")


@pytest.mark.parametrize("worker, package", [
    ("UvicornWorker", "uvicorn_worker"), ("ASGIWorker", "gunicorn.workers.gasgi"), ("AiohttpWorker", "aiohttp")])
def test_gunicorn(folder, worker, package):
    pytest.importorskip("gunicorn")
    pytest.importorskip(package)
    (folder / "aioservice.py").write_text(AIOHTTP)
    target = "aioservice:app" if worker == "AiohttpWorker" else "service:app"
    with serving(folder, "-m", "gunicorn", target, "-k", f"pyloop.workers.{worker}", "-b", "fd://{fd}",
                 "--graceful-timeout", "5", "--no-control-socket") as get:
        assert get("/one").startswith("pyloop._loop ")
        assert get("/two").endswith(" /two")


def test_aiohttp_run_app(folder):
    pytest.importorskip("aiohttp")
    (folder / "aioservice.py").write_text(AIOHTTP)
    with serving(folder, "aioservice.py", "{fd}") as get:
        assert get("/hello").startswith("pyloop._loop ") and get("/hello").endswith(" /hello")


def test_hypercorn_in_code(folder):
    pytest.importorskip("hypercorn")
    (folder / "serve.py").write_text(HYPERCORN)
    with serving(folder, "serve.py", "{fd}") as get:
        assert get("/hello").startswith("pyloop._loop ")


def test_granian_in_code(folder, monkeypatch):
    """Its workers are processes of their own, which import the script again."""
    pytest.importorskip("granian")
    (folder / "serve.py").write_text(GRANIAN)
    process = subprocess.Popen([sys.executable, "serve.py"], cwd=folder, env=environment(), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    monkeypatch.chdir(folder)
    out = process.stdout.readline()
    try:
        assert out == "listening\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect("granian.sock")
            sock.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            assert answer.read().startswith(b"pyloop._loop ")
        # Free-threaded, its workers are threads, and the kernel gives the signal to any of them: its main thread then
        # sleeps on, on asyncio's loop as well.
        if not sysconfig.get_config_var("Py_GIL_DISABLED"):
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=TIMEOUT)
            assert "Traceback" not in out
    finally:
        if process.poll() is None:
            process.kill()
            print(out, process.communicate()[0])


def test_workers_module():
    import pyloop.workers
    assert dir(pyloop.workers) == ["ASGIWorker", "AiohttpWorker", "UvicornWorker"]
    with pytest.raises(AttributeError, match="has no attribute 'NoWorker'"):
        pyloop.workers.NoWorker
