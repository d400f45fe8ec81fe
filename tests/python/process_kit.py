"""What the tests share that start programs: the environment, a listening socket to inherit, one request."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import urllib.request

import pyloop

TIMEOUT = 60  # a cold import of everything on a busy machine


def environment(**extra):
    """With this pyloop first on the path, whichever folder the program runs in."""
    package = str(pathlib.Path(pyloop.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


def run_python(folder, *arguments, env=None, **options):
    """Runs `python ARGUMENTS` in the folder; returns the CompletedProcess with text output."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, env=env or environment(),
                          text=True, capture_output=True, timeout=TIMEOUT, **options)


@contextlib.contextmanager
def serving(folder, *arguments, **extra_environment):
    """A server that inherits a listening socket: `{fd}` in an argument is its number. Yields get(path).

    The socket listens before the server runs, so that a request simply waits. In the end the server must
    go at SIGTERM, without having printed a traceback.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        address = "http://{}:{}".format(*listener.getsockname())
        process = subprocess.Popen(
            [sys.executable, *(str(argument).replace("{fd}", str(number)) for argument in arguments)],
            cwd=folder, env=environment(**extra_environment), pass_fds=[number], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def get(path="/"):
        with urllib.request.urlopen(address + path, timeout=TIMEOUT) as response:
            return response.read().decode()

    output = ""
    try:
        yield get
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        if process.poll() is None:
            process.kill()
            output, _ = process.communicate()
            print(output)
    assert "Traceback" not in output, output
