"""`python -m pyloop.run --parallel --threads N`: requests on several threads, one program."""

import asyncio
import collections
import json
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading

import pytest
from process_kit import environment

APP = """
import asyncio, json, os, threading, time

starts = []
lock = threading.Lock()
gate = threading.Barrier(2)
held = threading.Event()


async def lifespan(scope, receive, send):
    await receive()
    with lock:
        starts.append(threading.get_ident())
        scope["state"]["number"] = len(starts)
    scope["state"]["event"] = asyncio.Event()  # of this view
    await send({"type": "lifespan.startup.complete"})
    await receive()
    os.write(1, b"shutdown\\n")
    await send({"type": "lifespan.shutdown.complete"})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    if scope["path"] == "/both":  # two requests at a time, on two threads, or they wait for ever
        gate.wait(20)
    elif scope["path"] == "/hold":
        os.write(1, b"holding\\n")
        held.wait(20)
    elif scope["path"] == "/release":
        held.set()
    elif scope["path"] == "/spin":
        end = time.monotonic() + 0.002
        while time.monotonic() < end:
            pass
    elif scope["path"] == "/wait":
        os.write(1, b"waiting\\n")
        await asyncio.sleep(60)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.sleep(0, asyncio.current_task() is not None))
    answer = {"thread": threading.get_ident(), "starts": len(starts), "number": scope["state"]["number"],
              "task": task.result(), "home": starts[scope["state"]["number"] - 1]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


async def main():
    import pyloop
    loop = asyncio.get_running_loop()
    async def strand():
        return threading.get_ident()
    print("workers", loop.workers, len(await asyncio.gather(*[pyloop.spawn(strand()) for _ in range(9)])))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "service.py").write_text(APP)
    return tmp_path


class Server:
    def __init__(self, folder, backend, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyloop.run", "service:app", "--port", "0", "--parallel", "--backend", backend,
             "--no-access-log", *arguments],
            cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            if match := re.search(r"Listening on http://127.0.0.1:(\d+) \((\w+), (\d+) threads\)", line):
                self.port, self.backend, self.threads = int(match[1]), match[2], int(match[3])
                return
        raise AssertionError(f"did not start: {self.lines}, {self.process.wait()}")

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return sock

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        assert "Traceback" not in err, err
        return self.process.returncode, out, err

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def ask(sock, path="/"):
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def answer(sock):
    data = b""
    while b"}" not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    assert data.startswith(b"HTTP/1.1 200 "), data
    return json.loads(data[data.index(b"{"):])


def test_requests_run_on_several_threads(folder, backend):
    """The two of a barrier can only meet if they run on different threads: new pairs until two do."""
    with Server(folder, backend, "--threads", "2", "--lifespan-scope", "process") as server:
        assert server.backend == backend
        assert server.threads == 2
        seen = set()
        connections = []
        while len(seen) < 2:
            assert len(connections) < 200, seen
            sock = server.connect()
            connections.append(sock)
            ask(sock)
            found = answer(sock)
            assert found["task"] is True
            assert found["starts"] == found["number"] == 1
            if found["thread"] not in seen:
                seen.add(found["thread"])
                ask(sock)  # a kept connection stays where it is
                assert answer(sock)["thread"] == found["thread"]
        of_thread = {}
        for sock in connections:
            ask(sock)
            of_thread[answer(sock)["thread"]] = sock
        one, other = of_thread.values()
        ask(one, "/both")
        ask(other, "/both")
        assert {answer(one)["thread"], answer(other)["thread"]} == seen
        for sock in connections:
            sock.close()
        status, out, err = server.end()
        assert status == -signal.SIGTERM
        assert out.count("shutdown") == 1


def test_connections_go_where_fewer_are(folder, backend):
    with Server(folder, backend, "--threads", "2") as server:
        of_thread = collections.defaultdict(list)

        def open_one():
            sock = server.connect()
            ask(sock)
            thread = answer(sock)["thread"]
            of_thread[thread].append(sock)
            return thread

        for _ in range(8):
            open_one()
        assert [len(sockets) for sockets in of_thread.values()] == [4, 4]
        (thread, (kept, *others)), _ = of_thread.items()
        for sock in others:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while sock.recv(65536):
                pass
            sock.close()
        ask(kept)  # after that the thread knows
        answer(kept)
        assert [open_one(), open_one()] == [thread, thread]
        for sockets in of_thread.values():
            for sock in sockets:
                sock.close()
        server.end()


def test_lifespan_of_each_worker(folder, backend):
    with Server(folder, backend, "--threads", "3") as server:
        for _ in range(30):
            with server.connect() as sock:
                ask(sock)
                found = answer(sock)
                assert found["starts"] == 3
                assert found["thread"] == found["home"]  # the state is that of its own thread
        status, out, _ = server.end()
        assert status == -signal.SIGTERM
        assert out.count("shutdown") == 3


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="with a GIL nobody could run them sooner")
@pytest.mark.parametrize("scope", ["worker", "process"])
def test_a_thread_that_is_behind_is_helped(folder, backend, scope):
    """Requests of one turn on one thread: the first takes long, the other two wait for each other."""
    with Server(folder, backend, "--threads", "2", "--lifespan-scope", scope) as server:
        of_thread = collections.defaultdict(list)
        while sum(len(sockets) > 3 for sockets in of_thread.values()) == 0 or len(of_thread) < 2:
            sock = server.connect()
            ask(sock)
            of_thread[answer(sock)["thread"]].append(sock)
        one = max(of_thread, key=lambda thread: len(of_thread[thread]))
        (other,) = set(of_thread) - {one}
        holding, *late = of_thread[one][:4]
        ask(holding, "/hold")
        assert server.process.stdout.readline() == "holding\n"
        for sock, path in zip(late, ("/spin", "/both", "/both"), strict=True):
            ask(sock, path)
        ask(of_thread[other][0], "/release")
        assert answer(of_thread[other][0])["thread"] == other
        answers = [answer(sock) for sock in (holding, *late)]
        assert [found["thread"] for found in answers[:2]] == [one, one]
        assert {found["thread"] for found in answers[2:]} == {one, other}
        if scope == "worker":  # the state is that of the thread that runs the request
            assert all(found["thread"] == found["home"] for found in answers)
        for sock in late:  # and what comes next is at home again
            ask(sock)
            assert answer(sock)["thread"] == one
        for sock in (*of_thread[one], *of_thread[other]):
            sock.close()
        assert server.end()[0] == -signal.SIGTERM


def test_many_clients_at_once(folder, backend):
    errors = []

    def client():
        try:
            for _ in range(20):
                with server.connect() as sock:
                    for _ in range(5):
                        ask(sock)
                        assert answer(sock)["task"] is True
        except BaseException as error:
            errors.append(error)

    with Server(folder, backend, "--threads", "4") as server:
        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert server.end(signal.SIGINT)[0] == 0


def test_limit_concurrency_is_shared_out(folder, backend):
    """Two requests wait, one on each thread; a third is too many for either."""
    with Server(folder, backend, "--threads", "2", "--limit-concurrency", "2") as server:
        sockets = [server.connect() for _ in range(2)]
        for sock in sockets:
            ask(sock, "/wait")
            assert server.process.stdout.readline() == "waiting\n"
        with server.connect() as sock:
            ask(sock)
            assert sock.recv(65536).startswith(b"HTTP/1.1 503 ")
        server.process.kill()
        for sock in sockets:
            sock.close()


def test_second_sigint_forces_every_thread(folder, backend):
    with Server(folder, backend, "--threads", "2") as server:
        sockets = [server.connect() for _ in range(4)]
        for sock in sockets:
            ask(sock, "/wait")
        for _ in sockets:
            assert server.process.stdout.readline() == "waiting\n"
        server.process.send_signal(signal.SIGINT)
        for line in server.process.stderr:
            if "Waiting for" in line:
                break
        status, _, _ = server.end(signal.SIGINT)
        assert status == 0
        for sock in sockets:
            sock.close()


def test_main_gets_the_workers(folder, backend):
    done = subprocess.run([sys.executable, "-m", "pyloop.run", "service:main", "--parallel", "--threads", "3",
                           "--backend", backend],
                          cwd=folder, env=environment(), text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "workers 3 9\n"


def test_failing_start_up_of_one_worker(folder, backend):
    (folder / "service.py").write_text(APP.replace('scope["state"]["event"]', '''if len(starts) == 2:
        raise ValueError("no second one")
    scope["state"]["event"]'''))
    done = subprocess.run([sys.executable, "-m", "pyloop.run", "service:app", "--port", "0", "--parallel", "--threads",
                           "2", "--lifespan", "on", "--backend", backend],
                          cwd=folder, env=environment(), text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "application startup failed: ValueError: no second one" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "text"), [
    (["--threads", "2"], "--threads: only with --parallel"),
    (["--parallel", "--threads", "0"], "invalid number value"),
    (["--parallel", "--threads", "65"], "at most 64"),
    (["--parallel", "--lifespan-scope", "thread"], "invalid choice"),
])
def test_bad_options(folder, arguments, text):
    done = subprocess.run([sys.executable, "-m", "pyloop.run", "service:app", *arguments], cwd=folder,
                          env=environment(), text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_serve_belongs_to_the_main_strand(backend):
    import pyloop

    async def app(scope, receive, send):
        raise AssertionError("nobody calls it")

    async def main():
        other, = asyncio.get_running_loop()._other_views
        serving = pyloop.serve(app, port=0, signals=False)
        with pytest.raises(RuntimeError, match="in parallel mode serve\\(\\) belongs to the main strand"):
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(serving, other))

    pyloop.run(main(), parallel=True, workers=2, backend=backend)
