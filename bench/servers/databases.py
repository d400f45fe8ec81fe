"""PostgreSQL and Redis from the system's packages, on a private port, in a temporary folder."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.common import BenchError, Server, free_port

_USER = "nobody"  # PostgreSQL refuses to run as root


def _postgres_folder() -> Path | None:
    """Where the newest PostgreSQL's programs are."""
    found = glob.glob("/usr/lib/postgresql/*/bin/postgres")
    return Path(max(found, key=lambda path: int(path.split("/")[4]))).parent if found else None


def postgres_problem() -> str | None:
    return None if _postgres_folder() else "PostgreSQL is not installed"


def redis_problem() -> str | None:
    return None if shutil.which("redis-server") else "redis-server is not installed"


def _unprivileged(argv: list[str]) -> list[str]:
    return ["setpriv", f"--reuid={_USER}", "--clear-groups", *argv] if os.getuid() == 0 else argv


@contextlib.contextmanager
def postgres(core: int) -> Iterator[tuple[Server, int]]:
    """A new, empty PostgreSQL with the superuser `bench`, on its port."""
    programs = _postgres_folder()
    with tempfile.TemporaryDirectory(prefix="bench-postgres-") as folder:
        if os.getuid() == 0:
            shutil.chown(folder, _USER)
        data = f"{folder}/data"
        made = subprocess.run(
            _unprivileged([str(programs / "initdb"), "-D", data, "-U", "bench", "-A", "trust", "-N",
                           "--no-instructions"]),
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        if made.returncode != 0:
            raise BenchError(f"initdb: {made.stderr.strip()}")
        port = free_port()
        argv = [str(programs / "postgres"), "-D", data, "-p", str(port), "-k", folder,
                "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]  # fmt: skip
        with Server(_unprivileged(argv), core) as server:
            server.wait_port(port)
            yield server, port


@contextlib.contextmanager
def redis(core: int) -> Iterator[tuple[Server, int]]:
    """A new, empty Redis that keeps nothing, on its port."""
    port = free_port()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with Server(argv, core) as server:
        server.wait_port(port)
        yield server, port
