"""What a thread that posts to a loop may hold up: nobody, while it writes the wake-up."""

import os
import subprocess
import sys
import sysconfig

import pytest

from extension_kit import COMPILER, FOLDER, compile_extension, needs_compiler

pytestmark = needs_compiler

SHIM = """
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

static int entered;
static _Atomic int gate = -1;

/* The next wake-up that is written tells `entered_fd` and waits for a byte from `gate_fd`. */
void hold_next_wake(int entered_fd, int gate_fd)
{
    entered = entered_fd;
    gate = gate_fd;
}

ssize_t write(int fd, const void *data, size_t size)
{
    int at;
    if (size == 8 && (at = atomic_exchange(&gate, -1)) >= 0) { /* of an eventfd */
        char byte = 0;
        (void)syscall(SYS_write, entered, &byte, 1);
        (void)syscall(SYS_read, at, &byte, 1);
    }
    return syscall(SYS_write, fd, data, size);
}
"""

BEGIN = """
import ctypes, os, sys, threading, time
import pyloop

TIMEOUT = 20
shim = ctypes.CDLL(sys.argv[1])
loop = pyloop.Loop(backend=sys.argv[2])
ran, all_ran = [], threading.Event()
(told, telling), (waits, opens) = os.pipe(), os.pipe()
runner = threading.Thread(target=loop.run_forever)
runner.start()

def parks():
    return loop.metrics()["workers"][0]["parks"]

def await_park(after):
    while parks() <= after:
        time.sleep(0.001)  # tidy: sleep because nothing tells that the loop sleeps

def start(*threads):
    for thread in threads:
        thread.start()
    return threads

def join(threads):
    until = time.monotonic() + TIMEOUT
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))
    return not any(thread.is_alive() for thread in threads)
"""

END = """
os.write(opens, b".")
for thread in (first, *others):
    thread.join()
assert all_ran.wait(TIMEOUT)
loop.call_soon_threadsafe(loop.stop)
runner.join()
loop.close()
assert is_free, "the others waited for a write(2)"
"""

POST = BEGIN + """
def note(what):
    ran.append(what)
    if len(ran) == 4:
        all_ran.set()

def post(what):
    if sys.argv[3] == "soon":
        loop.call_soon_threadsafe(note, what)
    elif sys.argv[3] == "later":
        loop.call_later(0, note, what)
    else:
        loop._write_to_self()
        all_ran.set()

await_park(0)
shim.hold_next_wake(telling, waits)
[first] = start(threading.Thread(target=post, args=("held",)))
assert os.read(told, 1)
others = start(*[threading.Thread(target=post, args=(i,)) for i in range(3)])
is_free = join(others)
""" + END + """
assert sys.argv[3] == "wake" or sorted(map(str, ran)) == ["0", "1", "2", "held"], ran
"""

COMPLETE = BEGIN + """
sys.path.insert(0, sys.argv[3])
import pyloop_example as example

gates = [os.pipe() for _ in range(3)]
numbers, asked = [], []
is_ready = threading.Event()

def note(future):
    ran.append(future.result())
    if len(ran) == 3:
        all_ran.set()

def ask():
    for number, (gate, _) in enumerate(gates):
        future, thread = example.answer("r", number, gate)
        future.add_done_callback(note)
        numbers.append(thread)
    asked.append(parks())
    is_ready.set()

loop.call_soon_threadsafe(ask)
is_ready.wait()
await_park(asked[0])
shim.hold_next_wake(telling, waits)
os.write(gates[0][1], b".")
assert os.read(told, 1)
os.write(gates[1][1], b".")
os.write(gates[2][1], b".")
first, *others = start(*[threading.Thread(target=example.join, args=(number,)) for number in numbers])
is_free = join(others)
""" + END + """
assert sorted(ran) == [0, 1, 2], ran
"""


@pytest.fixture
def run_held(tmp_path, backend):
    """run_held(program, argument): with a write(2) that can be held."""
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run([*COMPILER, "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c"], check=True)

    # Behind a sanitizer's library, which has to be the first.
    preload = " ".join([*filter(None, [os.environ.get("LD_PRELOAD")]), str(shim)])

    def run_program(program, argument):
        done = subprocess.run([sys.executable, "-c", program, shim, backend, argument], capture_output=True, text=True,
                              timeout=120, check=False, env={**os.environ, "LD_PRELOAD": preload})
        assert (done.returncode, done.stderr) == (0, "")
    return run_program


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="with a GIL the writer may keep that")
@pytest.mark.parametrize("way", ["soon", "later", "wake"])
def test_a_poster_inside_write_holds_up_nobody(run_held, way):
    run_held(POST, way)


def test_a_native_thread_inside_write_holds_up_nobody(run_held, tmp_path):
    """Other threads complete their futures meanwhile."""
    compile_extension(tmp_path, FOLDER / "example.c", "pyloop_example")
    run_held(COMPLETE, tmp_path)
