"""A real application in parallel mode: FastAPI, a Redis pool made in its lifespan, background tasks, streams, httpx."""

import collections
import concurrent.futures
import contextlib
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import sysconfig

import pytest
from process_kit import environment

APP = """
import os
import pyloop
if os.environ["SERVICE_SCOPE"] == "process":  # the threads share what the lifespan makes
    pyloop.install(sync=True)
import asyncio, contextlib, threading

import fastapi, httpx, redis.asyncio
from fastapi.responses import StreamingResponse


@contextlib.asynccontextmanager
async def lifespan(app):
    pool = redis.asyncio.BlockingConnectionPool(
        connection_class=redis.asyncio.UnixDomainSocketConnection, path="redis.sock", max_connections=5, timeout=20)
    async with redis.asyncio.Redis(connection_pool=pool) as client, httpx.AsyncClient() as web:
        await client.incr("starts")
        yield {"redis": client, "web": web, "limit": asyncio.Semaphore(3), "home": asyncio.get_running_loop()}
    await pool.aclose()


app = fastapi.FastAPI(lifespan=lifespan)


async def later(client, name):
    await client.incr(name)


@app.post("/count/{name}")
async def count(request: fastapi.Request, name: str, tasks: fastapi.BackgroundTasks):
    client = request.state.redis
    tasks.add_task(later, client, f"background:{name}")
    async with request.state.limit:
        body = await request.body()
        async with client.pipeline() as pipe:
            results = await pipe.incr(name).set(f"body:{name}", body).get(f"body:{name}").execute()
    return {"length": len(results[2]), "thread": threading.get_ident(), "limit": type(request.state.limit).__module__,
            "home": asyncio.get_running_loop() is request.state.home}


@app.get("/stream/{count}")
async def stream(request: fastapi.Request, count: int):
    async def parts():
        for i in range(count):
            yield (await request.state.redis.echo(f"{i},")) if i % 10 == 0 else f"{i},"
            await asyncio.sleep(0)
    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/fetch/{port}")
async def fetch(request: fastapi.Request, port: int):
    # A client of this thread: httpx's belongs to the loop that made it.
    async with contextlib.AsyncExitStack() as stack:
        web = request.state.web
        if asyncio.get_running_loop() is not request.state.home:
            web = await stack.enter_async_context(httpx.AsyncClient())
        answer, other = await asyncio.gather(
            web.get(f"http://127.0.0.1:{port}/stream/30"), asyncio.to_thread(threading.get_ident))
    return {"text": answer.text, "other": other != threading.get_ident()}
"""

# With a GIL more threads show nothing more.
IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
THREADS = (2, 4) if IS_FREE_THREADED else (2,)
ROUNDS = 105 if IS_FREE_THREADED else 15  # of two requests, every fifth of four
CLIENTS = 8


@pytest.fixture
def redis_server(tmp_path):
    path = shutil.which("redis-server")
    if path is None:
        pytest.skip("redis-server is not installed")
    pytest.importorskip("redis")
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    process = subprocess.Popen([path, "--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"],
                               cwd=tmp_path, text=True, stdout=subprocess.PIPE)
    try:
        for line in process.stdout:
            if "eady to accept connections" in line:
                break
        yield lambda *words: subprocess.run(["redis-cli", "-s", "redis.sock", *words], cwd=tmp_path, text=True,
                                            capture_output=True, check=True, timeout=30).stdout.strip()
    finally:
        process.terminate()
        process.communicate()


@contextlib.contextmanager
def serving(folder, backend, threads, scope):
    (folder / "service.py").write_text(APP)
    process = subprocess.Popen(
        # RuntimeWarning: also what an extension gets that switches the GIL on.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-W", "error::RuntimeWarning", "-m", "pyloop.run",
         "service:app", "--port", "0", "--parallel", "--threads", str(threads), "--lifespan-scope", scope,
         "--lifespan", "on", "--backend", backend, "--no-access-log"],
        cwd=folder, env={**environment(), "SERVICE_SCOPE": scope}, text=True, stderr=subprocess.PIPE)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if match := re.search(r"Listening on http://127.0.0.1:(\d+) .* (\d+) threads", line):
                break
        else:
            raise AssertionError("".join(lines))
        assert int(match[2]) == threads
        yield int(match[1])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert not re.search("Traceback|rror|Warning", err), err
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def client(port, number, limit):
    """What one client got: the threads that answered it. Every second one keeps its connection for all its requests.

    `limit`: the module of the semaphore that the application uses.
    """
    threads = set()
    keeps_alive = number % 2 == 0
    connection = None

    def ask(method, path, body=None):
        connection.request(method, path, body)
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 200, (path, answer.status, data)
        return data.decode()

    text = "".join(f"{i}," for i in range(30))
    for i in range(ROUNDS):
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.connect()
            socket = connection.sock
        size = 1 + (number * 7919 + i * 104729) % 150_000
        found = json.loads(ask("POST", f"/count/{number}", b"x" * size))
        assert (found["length"], found["limit"]) == (size, limit)
        # A thread that is behind lets another run the request; with a state of its own that one uses it.
        assert found["home"] or limit == "pyloop.sync"
        threads.add(found["thread"])
        assert ask("GET", "/stream/30") == text
        if i % 5 == 0:
            assert json.loads(ask("GET", f"/fetch/{port}")) == {"text": text, "other": True}
        if keeps_alive:
            assert connection.sock is socket  # http.client would connect again without a word
        else:
            connection.close()
            connection = None
    if keeps_alive:
        connection.close()
    return threads


@pytest.mark.parametrize("scope", ["worker", "process"])
@pytest.mark.parametrize("threads", THREADS)
def test_application_under_load(tmp_path, backend, redis_server, threads, scope):
    limit = "pyloop.sync" if scope == "process" else "asyncio.locks"
    with serving(tmp_path, backend, threads, scope) as port:
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            seen = collections.Counter()
            for found in pool.map(lambda number: client(port, number, limit), range(CLIENTS)):
                seen.update(found)
        assert 2 <= len(seen) <= threads
    counts = {redis_server("GET", f"{kind}{number}") for kind in ("", "background:") for number in range(CLIENTS)}
    assert counts == {str(ROUNDS)}
    assert redis_server("GET", "starts") == ("1" if scope == "process" else str(threads))
