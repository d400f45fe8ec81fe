"""What a thread that posts to a loop may hold up: nobody, while it writes the wake-up."""

import os
import subprocess
import sys
import sysconfig

import pytest

from extension_kit import COMPILER, needs_compiler

pytestmark = needs_compiler

SHIM = """
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Thread_local int entered = -1, gate = -1;

/* The next write(2) of this thread tells `entered_fd` and waits for a byte from `gate_fd`. */
void hold_next_write(int entered_fd, int gate_fd)
{
    entered = entered_fd;
    gate = gate_fd;
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (gate >= 0) {
        char byte = 0;
        int at = gate;
        gate = -1;
        (void)syscall(SYS_write, entered, &byte, 1);
        (void)syscall(SYS_read, at, &byte, 1);
    }
    return syscall(SYS_write, fd, data, size);
}
"""

PROGRAM = """
import ctypes, os, sys, threading, time
import pyloop

TIMEOUT = 20
shim = ctypes.CDLL(sys.argv[1])
loop = pyloop.Loop(backend=sys.argv[2])
ran = []
runner = threading.Thread(target=loop.run_forever)
runner.start()
while loop.metrics()["workers"][0]["parks"] == 0:
    time.sleep(0.001)  # tidy: sleep because nothing tells that the loop sleeps
(told, telling), (waits, opens) = os.pipe(), os.pipe()

def held(post):
    shim.hold_next_write(telling, waits)
    post("held")

def post(what):
    if sys.argv[3] == "soon":
        loop.call_soon_threadsafe(ran.append, what)
    elif sys.argv[3] == "later":
        loop.call_later(0, ran.append, what)
    else:
        loop._write_to_self()

first = threading.Thread(target=held, args=(post,))
first.start()
assert os.read(told, 1)
others = [threading.Thread(target=post, args=(i,)) for i in range(3)]
for other in others:
    other.start()
until = time.monotonic() + TIMEOUT
for other in others:
    other.join(max(until - time.monotonic(), 0))
is_free = not any(other.is_alive() for other in others)
os.write(opens, b".")
first.join()
for other in others:
    other.join()
loop.call_soon_threadsafe(loop.stop)
runner.join()
loop.close()
assert is_free, "the others waited for a write(2)"
assert sys.argv[3] == "wake" or sorted(map(str, ran)) == ["0", "1", "2", "held"], ran
"""


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="with a GIL the writer may keep that")
@pytest.mark.parametrize("way", ["soon", "later", "wake"])
def test_a_poster_inside_write_holds_up_nobody(tmp_path, backend, way):
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run([*COMPILER, "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c"], check=True)
    done = subprocess.run([sys.executable, "-c", PROGRAM, shim, backend, way], capture_output=True, text=True,
                          timeout=120, check=False, env={**os.environ, "LD_PRELOAD": str(shim)})
    assert (done.returncode, done.stderr) == (0, "")
