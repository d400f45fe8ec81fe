"""Where the server of a style is reached: what it is told, and what the load generator is told.

Over TCP that is a port, which the server announces; the others need a path, a certificate or
inherited pipes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.common import C_BINARIES, BenchError

TCP_STYLES = ("protocol", "buffered", "streams", "native-streams", "sock")
OTHER_STYLES = ("tls", "udp", "unix", "pipe", "rate")
STYLES = (*TCP_STYLES, *OTHER_STYLES)
CERTIFICATE_DAYS = 3650


@dataclass(frozen=True)
class Place:
    server_style: str
    server_arguments: tuple[str, ...] = ()
    server_fds: tuple[int, ...] = ()
    load_options: tuple[str, ...] = ()
    load_fds: tuple[int, ...] = ()


def certificate() -> Path:
    """The folder of cert.pem and key.pem for 127.0.0.1, made once."""
    folder = C_BINARIES / "certificate"
    if (folder / "key.pem").exists():
        return folder
    if shutil.which("openssl") is None:
        raise BenchError("openssl(1) is needed to make a certificate")
    C_BINARIES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=C_BINARIES) as partial:
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", f"{partial}/key.pem", "-out", f"{partial}/cert.pem",
             "-days", str(CERTIFICATE_DAYS), "-subj", "/CN=127.0.0.1"],
            capture_output=True, text=True,
        )  # fmt: skip
        if made.returncode != 0:
            raise BenchError(f"openssl made no certificate: {made.stderr}")
        shutil.copytree(partial, folder, dirs_exist_ok=True)
    return folder


@contextlib.contextmanager
def place(style: str, connections: int) -> Iterator[Place]:
    """What one server and its clients are started with."""
    if style == "tls":
        yield Place("tls", (str(certificate()),), load_options=("--tls",))
    elif style == "udp":
        yield Place("udp", load_options=("--udp",))
    elif style == "rate":
        yield Place("protocol", load_options=("--reconnect",))
    elif style == "unix":
        with tempfile.TemporaryDirectory(prefix="bench-unix-") as folder:
            path = f"{folder}/socket"
            yield Place("unix", (path,), load_options=("--unix", path))
    elif style == "pipe":
        with contextlib.ExitStack() as stack:
            yield _pipes(connections, stack)
    else:
        yield Place(style)


def _pipes(count: int, stack: contextlib.ExitStack) -> Place:
    """Two pipes for each connection; this process closes its copies at the end."""
    server, load = [], []
    for _ in range(count):
        there, back = os.pipe(), os.pipe()
        for fd in (*there, *back):
            stack.callback(os.close, fd)
        server.append((there[0], back[1]))
        load.append((back[0], there[1]))

    def words(pairs):
        return ",".join(f"{read}:{write}" for read, write in pairs)

    def every(pairs):
        return tuple(fd for pair in pairs for fd in pair)

    options = ("--pipes", words(load))
    return Place("pipe", (words(server),), every(server), options, every(load))
