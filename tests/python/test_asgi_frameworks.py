"""Starlette and FastAPI on top: streams, uploads of 100 MB with flat memory, lifespan, background tasks, disconnects.

The server is a process of its own, so that its memory can be watched.
"""

import hashlib
import os
import pathlib
import socket
import textwrap
import urllib.error
import urllib.request

import pytest
from test_runner_cli import Server

pytest.importorskip("starlette")

MEGABYTE = 1 << 20
PATTERN = bytes(range(256)) * 256  # 64 KiB

STARLETTE = """
import asyncio, contextlib, hashlib
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import *
from starlette.routing import Route

PATTERN = bytes(range(256)) * 256
log = []

@contextlib.asynccontextmanager
async def lifespan(app):
    print("startup", flush=True)
    yield {"from_lifespan": "yes"}
    print("shutdown", flush=True)

async def upload(request):
    size, digest = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        digest.update(piece)
    return PlainTextResponse(f"{size} {digest.hexdigest()}")

async def body(request):
    return PlainTextResponse(str(len(await request.body())))

async def download(request):
    count = int(request.query_params["megabytes"]) * 16
    async def pieces():
        for _ in range(count):
            yield PATTERN
    return StreamingResponse(pieces(), media_type="application/octet-stream")

async def echo(request):
    return StreamingResponse(request.stream())

async def state(request):
    return PlainTextResponse(request.state.from_lifespan)

async def endless(request):
    async def pieces():
        try:
            while True:
                yield b"tick\\n"
                await asyncio.sleep(0.01)
        finally:
            print("stopped", flush=True)
    return StreamingResponse(pieces())

async def background(request):
    async def work():
        await asyncio.sleep(0.05)
        print("worked", flush=True)
    return PlainTextResponse("ok", background=BackgroundTask(work))

async def disconnected(request):
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)
    print("noticed", flush=True)
    return PlainTextResponse("nobody reads this")

async def file(request):
    return FileResponse(request.query_params["path"])

async def fails(request):
    raise ValueError("mine")

class Custom(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-custom"] = "1"
        return response

routes = [Route("/" + f.__name__, f, methods=["GET", "POST"]) for f in
          (upload, body, download, echo, state, endless, background, disconnected, file, fails)]
app = Starlette(routes=routes, lifespan=lifespan)
wrapped = Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(Custom), Middleware(GZipMiddleware)])
"""

FASTAPI = """
import asyncio, contextlib, hashlib
from fastapi import Depends, FastAPI, File, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

PATTERN = bytes(range(256)) * 256

@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"from_lifespan": "yes"}

app = FastAPI(lifespan=lifespan)

class Item(BaseModel):
    name: str
    price: float

async def resource():
    yield "resource"

@app.get("/items/{number}")
async def item(number: int, q: str | None = None, r: str = Depends(resource)):
    return {"number": number, "q": q, "r": r}

@app.post("/items")
def create(item: Item):  # in a thread
    return item

@app.get("/state")
async def state(request: Request):
    return request.state.from_lifespan

@app.post("/upload")
async def upload(request: Request):
    size, digest = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        digest.update(piece)
    return f"{size} {digest.hexdigest()}"

@app.post("/file")
async def file(file: UploadFile = File()):
    digest = hashlib.sha256()
    while piece := await file.read(1 << 20):
        digest.update(piece)
    return f"{file.filename} {file.size} {digest.hexdigest()}"

@app.get("/download")
async def download(megabytes: int):
    async def pieces():
        for _ in range(megabytes * 16):
            yield PATTERN
    return StreamingResponse(pieces())
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "star.py").write_text(textwrap.dedent(STARLETTE))
    (tmp_path / "fast.py").write_text(textwrap.dedent(FASTAPI))
    return tmp_path


def resident_bytes(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def peak_bytes(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


class Content:
    """A readable of so many megabytes of the pattern, which counts what was read."""

    def __init__(self, megabytes):
        self.left = megabytes * 16
        self.digest = hashlib.sha256()

    def read(self, size=-1):
        if self.left == 0:
            return b""
        self.left -= 1
        self.digest.update(PATTERN)
        return PATTERN


def post(server, path, content, **headers):
    request = urllib.request.Request(server.url + path, content, headers, method="POST")
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


def upload(server, path, megabytes, chunked):
    content = Content(megabytes)
    headers = {"content-type": "application/octet-stream"}
    if chunked:
        headers["transfer-encoding"] = "chunked"
    else:
        headers["content-length"] = str(megabytes * MEGABYTE)
    answer = post(server, path, content, **headers).decode().strip('"')
    assert answer == f"{megabytes * MEGABYTE} {content.digest.hexdigest()}"


def download(server, path, megabytes):
    with urllib.request.urlopen(f"{server.url}{path}?megabytes={megabytes}", timeout=60) as response:
        for _ in range(megabytes * 16):
            assert response.read(len(PATTERN)) == PATTERN
        assert response.read() == b""


@pytest.mark.skipif(os.environ.get("PYLOOP_SANITIZED") == "1",
                    reason="a sanitizer keeps freed memory for a while")
@pytest.mark.parametrize("module", ["star", "fast"])
def test_hundred_megabytes_with_flat_memory(folder, backend, module):
    if module == "fast":
        pytest.importorskip("fastapi")
    with Server(folder, f"{module}:app", "--backend", backend) as server:
        upload(server, "/upload", 8, False)
        upload(server, "/upload", 8, True)
        download(server, "/download", 8)
        before = resident_bytes(server.process)
        upload(server, "/upload", 100, False)
        upload(server, "/upload", 100, True)
        download(server, "/download", 100)
        assert resident_bytes(server.process) - before < 8 * MEGABYTE
        assert peak_bytes(server.process) - before < 16 * MEGABYTE


def test_slow_downloads_do_not_pile_up(folder, backend):
    """Twenty clients that read nothing: each costs the write queue, not the file."""
    with Server(folder, "star:app", "--backend", backend) as server:
        download(server, "/download", 1)
        before = resident_bytes(server.process)
        host, port = server.url.removeprefix("http://").split(":")
        clients = [socket.create_connection((host, int(port))) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET /download?megabytes=100 HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in clients:
            client.settimeout(30)
            assert client.recv(4096)
        download(server, "/download", 8)
        assert resident_bytes(server.process) - before < 20 * MEGABYTE
        for client in clients:
            client.close()


@pytest.mark.parametrize("name", ["app", "wrapped"])
def test_starlette(folder, backend, name):
    with Server(folder, f"star:{name}", "--backend", backend, "--no-access-log") as server:
        assert server.get("/state") == b"yes"
        data = os.urandom(300_000)
        assert post(server, "/body", data) == b"300000"
        assert post(server, "/echo", data) == data
        path = folder / "file.bin"
        path.write_bytes(data)
        assert server.get(f"/file?path={path}") == data
        assert server.get("/background") == b"ok"
        with pytest.raises(urllib.error.HTTPError, match="500"):
            server.get("/fails")
        status, out, err = server.end()
        assert status == 0
        assert out.split() == ["startup", "worked", "shutdown"]
        assert err.count("ValueError: mine") == 1
        assert err.count("ERROR:") == 1


# Under Starlette's BaseHTTPMiddleware is_disconnected() never becomes true, on any server.
@pytest.mark.parametrize("name, path, word", [
    ("app", "/endless", "stopped"), ("wrapped", "/endless", "stopped"), ("app", "/disconnected", "noticed"),
])  # fmt: skip
def test_starlette_learns_of_a_disconnect(folder, backend, name, path, word):
    with Server(folder, f"star:{name}", "--backend", backend, "--no-access-log") as server:
        assert server.process.stdout.readline() == "startup\n"
        host, port = server.url.removeprefix("http://").split(":")
        client = socket.create_connection((host, int(port)))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        if path == "/endless":
            assert client.recv(4096)
        client.close()
        assert server.process.stdout.readline() == word + "\n"
        status, _, err = server.end()
        assert status == 0
        assert "Traceback" not in err


def test_fastapi(folder, backend):
    pytest.importorskip("fastapi")
    with Server(folder, "fast:app", "--backend", backend) as server:
        assert server.get("/items/5?q=x") == b'{"number":5,"q":"x","r":"resource"}'
        json = {"content-type": "application/json"}
        assert post(server, "/items", b'{"name": "a", "price": 1.5}', **json) == b'{"name":"a","price":1.5}'
        assert server.get("/state") == b'"yes"'
        assert b"Swagger" in server.get("/docs")
        with pytest.raises(urllib.error.HTTPError, match="422"):
            server.get("/items/five")
        assert server.end()[0] == 0


def test_fastapi_multipart_upload(folder, backend):
    pytest.importorskip("multipart")
    with Server(folder, "fast:app", "--backend", backend) as server:
        data = os.urandom(5_000_000)
        head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="f.bin"\r\n\r\n'
        body = head + data + b"\r\n--X--\r\n"
        answer = post(server, "/file", body, **{"content-type": "multipart/form-data; boundary=X"})
        assert answer.decode().strip('"') == f"f.bin 5000000 {hashlib.sha256(data).hexdigest()}"
