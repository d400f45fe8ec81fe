"""The HTTP servers under test: how each is started with one server core and the same manners.

All: one worker, access log off, the application's lifespan run, keep-alive long enough for the
idle case. Everything else is the server's own default.
"""

from __future__ import annotations

from bench.common import BenchError, loop_problem, run_python

BASELINE = "uvicorn-uvloop"
KEEP_ALIVE_SECONDS = 300
GRANIAN_TIMEOUT_MS = 60_000  # the most it accepts

SERVERS = (
    "pyloop-io_uring",
    "pyloop-epoll",
    "uvicorn-uvloop",
    "uvicorn-asyncio",
    "uvicorn-pyloop-io_uring",
    "uvicorn-pyloop-epoll",
    "granian",
)


def command(name: str, application: str, port: int | str, python: str) -> tuple[list[str], dict]:
    """Command line and extra environment that serve `application` on 127.0.0.1:port."""
    address = ["--host", "127.0.0.1", "--port", str(port)]
    quiet = ["--no-access-log", "--log-level", "warning"]
    keep = ["--timeout-keep-alive", str(KEEP_ALIVE_SECONDS)]
    if name == "granian":
        return [
            python, "-m", "granian", application, *address, "--interface", "asgi", "--workers", "1",
            "--loop", "uvloop", "--runtime-mode", "st", "--no-access-log", "--log-level", "warning",
            "--backlog", "2048", "--http1-header-read-timeout", str(GRANIAN_TIMEOUT_MS),
            "--backpressure", "16384",
        ], {}  # fmt: skip
    kind, _, loop = name.partition("-")
    if kind == "pyloop":
        return [python, "-m", "pyloop.run", application, *address, *quiet, *keep], {
            "PYLOOP_BACKEND": loop
        }
    if kind != "uvicorn":
        raise BenchError(f"unknown server {name!r}: one of {', '.join(SERVERS)}")
    environment = {}
    if loop.startswith("pyloop-"):
        environment["PYLOOP_BACKEND"] = loop.removeprefix("pyloop-")
        loop = "pyloop:new_event_loop"
    return [
        python, "-m", "uvicorn", application, *address, *quiet, *keep,
        "--loop", loop, "--http", "httptools",
    ], environment  # fmt: skip


def problem(name: str, python: str) -> str | None:
    """None if the server can be started here, otherwise why not."""
    try:
        if name == "granian":
            run_python(["-c", "import granian, uvloop"], python)
        elif name.startswith("pyloop-"):
            run_python(["-c", "import pyloop.run"], python)
            return loop_problem(name, python)
        else:
            run_python(["-c", "import uvicorn, httptools"], python)
            return loop_problem(name.removeprefix("uvicorn-"), python)
    except BenchError as error:
        return str(error)
    return None
