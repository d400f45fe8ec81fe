"""Installs the C interface into a temporary folder, compiles echo_server.c against it with pkg-config, and
checks what it echoes.

    run_installed.py BUILD_FOLDER ECHO_SERVER_C

Exit status 0: passed, 77: something needed is not on this machine (said on the last line).
"""

import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

WORKERS, CONNECTIONS, ROUNDS = 3, 12, 20
BACKENDS = ("epoll", "io_uring")


def skip(reason):
    print(f"SKIPPED: {reason}")
    sys.exit(77)


def install(build, where):
    """The folder of the pkg-config file. The build is up to date: ninja ran before the tests."""
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--tags", "devel", "--destdir", where,
                    "--quiet"], check=True)
    found = list(where.rglob("pyloop.pc"))
    assert len(found) == 1, found
    return found[0].parent


def compile_server(source, where, pkgconfig):
    env = {**os.environ, "PKG_CONFIG_PATH": str(pkgconfig), "PKG_CONFIG_SYSROOT_DIR": str(where)}
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "pyloop"], env=env, check=True,
                           capture_output=True, text=True).stdout.split()
    program = where / "echo_server"
    subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-Wall", "-Wextra", "-Werror",
                    "-Wno-unused-parameter", source, "-o", program, *flags], check=True)
    return program


def exchange(sock, data):
    sock.sendall(data)
    received = b""
    while len(received) < len(data):
        part = sock.recv(65536)
        assert part, "the server closed the connection"
        received += part
    assert received == data


def check_echo(port):
    dice = random.Random(5)
    connections = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(CONNECTIONS)]
    for _ in range(ROUNDS):
        for connection in connections:
            exchange(connection, dice.randbytes(dice.choice((1, 100, 5000, 60000))))
    for connection in connections[1:]:  # one stays open: the server must end all the same
        connection.close()
    return connections[0]


def run_server(program, backend, library_folder):
    env = {**os.environ, "PYLOOP_BACKEND": backend, "LD_LIBRARY_PATH": str(library_folder)}
    server = subprocess.Popen([program, str(WORKERS)], env=env, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.PIPE)
    first = server.stdout.readline()
    if not first.startswith("PORT "):
        print(f"{backend}: not usable here: {server.communicate()[1].strip()}")
        return False
    left_open = check_echo(int(first.split()[1]))
    server.send_signal(signal.SIGTERM)
    output, errors = server.communicate(timeout=30)
    left_open.close()
    assert server.returncode == 0, errors
    served = [int(line.split()[-1]) for line in output.splitlines()]
    assert sum(served) == CONNECTIONS and min(served) > 0 and len(served) == WORKERS, served
    print(f"{backend}: connections per worker {served}")
    return True


def main():
    build, source = map(pathlib.Path, sys.argv[1:])
    for tool in ("meson", "pkg-config"):
        if shutil.which(tool) is None:
            skip(f"no {tool} on this machine")
    with tempfile.TemporaryDirectory(prefix="pyloop-api-") as temporary:
        where = pathlib.Path(temporary)
        pkgconfig = install(build, where)
        program = compile_server(source, where, pkgconfig)
        usable = [run_server(program, backend, pkgconfig.parent) for backend in BACKENDS]
    if not any(usable):
        skip("no backend can be used here")


if __name__ == "__main__":
    main()
