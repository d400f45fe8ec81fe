"""pyloop.native.call: C functions on native threads, awaited."""

import array
import asyncio
import ctypes
import errno
import gc
import os
import subprocess
import sys
import sysconfig
import textwrap
import threading
import weakref

import pytest

import pyloop
from pyloop import native

SOURCE = """
#include <stdint.h>
#include <string.h>
#include <unistd.h>

int64_t identity(void *argument) { return (int64_t)(intptr_t)argument; }
int64_t refuse(void *argument) { (void)argument; return -13; }
int64_t sum(void *argument) { int32_t *n = argument; return (int64_t)n[0] + n[1]; }
int64_t fill(void *argument) { memset(argument, 'x', 4); return 4; }
int64_t first(void *argument) { return *(unsigned char *)argument; }
/* Waits for a byte on a descriptor. */
int64_t wait_for_byte(void *argument) { char c; return read((int)(intptr_t)argument, &c, 1) == 1 ? c : -1; }
/* Writes a byte to one descriptor, waits for one on another. */
int64_t tell_and_wait(void *argument)
{
    int *fds = argument;
    char c = '.';
    return write(fds[0], &c, 1) == 1 && read(fds[1], &c, 1) == 1 ? c : -1;
}
int64_t count(void *argument) { return __atomic_add_fetch((int64_t *)argument, 1, __ATOMIC_RELAXED); }
"""
DELAY = 20


@pytest.fixture(scope="session")
def lib(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    (folder / "native.c").write_text(SOURCE)
    compiler = os.environ.get("CC", "gcc").split()
    subprocess.run([*compiler, "-shared", "-fPIC", "-O1", "-o", folder / "native.so", folder / "native.c"], check=True)
    return ctypes.CDLL(str(folder / "native.so"))


def address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def test_results_and_arguments(run, lib):
    async def main():
        assert await native.call(lib.identity) == 0
        assert await native.call(lib.identity, 12345) == 12345
        assert await native.call(address(lib.identity), 7) == 7
        assert await native.call(ctypes.c_void_p(address(lib.identity)), 8) == 8
        assert await native.call(lib.sum, array.array("i", [40, 2])) == 42
        data = bytearray(4)
        assert await native.call(lib.fill, data) == 4
        assert data == b"xxxx"
        assert await native.call(lib.first, b"A") == 65
        pair = (ctypes.c_int32 * 2)(1, 2)
        assert await native.call(lib.sum, pair) == 3

        class HasAddress:  # numba's cfunc is like this
            address = address(lib.identity)
        assert await native.call(HasAddress(), 9) == 9
        # Many at once, more than there are threads.
        assert await asyncio.gather(*[native.call(lib.identity, n) for n in range(1, 500)]) == list(range(1, 500))

    run(main())


def test_cffi(run, lib):
    cffi = pytest.importorskip("cffi", reason="cffi is not installed")
    ffi = cffi.FFI()

    async def main():
        pointer = ffi.cast("int64_t (*)(void *)", address(lib.identity))
        assert await native.call(pointer, 5) == 5

    run(main())


def test_errors_are_exceptions(run, lib):
    async def main():
        with pytest.raises(PermissionError) as caught:
            await native.call(lib.refuse)
        assert caught.value.errno == errno.EACCES
        assert await native.call(lib.refuse, check=False) == -13
        assert await native.call(lib.identity, (1 << 64) - 5000) == -5000  # no errno is so large

    run(main())


def test_bad_input(run, lib):
    async def main():
        with pytest.raises(TypeError, match="a C function is wanted"):
            native.call("function")
        with pytest.raises(TypeError, match="a C function is wanted"):
            native.call(len)
        with pytest.raises(ValueError, match="NULL pointer"):
            native.call(0)
        with pytest.raises(OverflowError):
            native.call(1 << 70)
        with pytest.raises(OverflowError):
            native.call(lib.identity, 1 << 70)
        with pytest.raises(TypeError):
            native.call(lib.identity, "text")
        with pytest.raises(TypeError):
            native.call(lib.identity, 1.5)
        assert await native.call(lib.identity, 1) == 1

    run(main())


def test_needs_a_loop_of_ours(lib):
    with pytest.raises(RuntimeError, match="no running event loop"):
        native.call(lib.identity)

    async def main():
        with pytest.raises(RuntimeError, match=r"needs a running pyloop\.Loop"):
            native.call(lib.identity)

    asyncio.run(main())


def test_gil_is_free_meanwhile(run, lib):
    """The loop goes on, and other threads too, while a function blocks."""
    async def main():
        read, write = os.pipe()
        future = native.call(lib.wait_for_byte, read)
        for _ in range(10):
            await asyncio.sleep(0)
        await asyncio.to_thread(os.write, write, b"!")
        assert await future == ord("!")
        os.close(read)
        os.close(write)

    run(main())


def block_all_threads(lib, pipes):
    """Fills the pool with calls that wait; the futures, and how to let them go."""
    threads = min(32, os.sysconf("SC_NPROCESSORS_ONLN") + 4)
    read, write = os.pipe()
    told, tell = os.pipe()
    pipes += (read, write, told, tell)
    both = array.array("i", [tell, read])
    futures = [native.call(lib.tell_and_wait, both) for _ in range(threads)]
    seen = 0
    while seen < threads:
        seen += len(os.read(told, threads - seen))
    return futures, lambda: os.write(write, b"z" * threads)


def test_cancelled_before_it_starts(run, lib):
    async def main():
        pipes = []
        blocked, release = block_all_threads(lib, pipes)
        counter = array.array("q", [0])
        waiting = native.call(lib.count, counter)
        awaited = asyncio.create_task(asyncio.wait_for(native.call(lib.count, counter), 0.001))
        with pytest.raises(TimeoutError if sys.version_info >= (3, 11) else asyncio.TimeoutError):
            await awaited
        assert waiting.cancel()
        release()
        assert set(await asyncio.gather(*blocked)) == {ord("z")}
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await native.call(lib.count, counter) == 1  # the other two never ran
        for fd in pipes:
            os.close(fd)

    run(main())


class Buffer(bytearray):
    """One that weak references can watch."""


def test_cancelled_while_it_runs_keeps_its_argument(run, lib):
    async def main():
        read, write = os.pipe()
        told, tell = os.pipe()
        argument = Buffer(array.array("i", [tell, read]).tobytes())
        gone = weakref.ref(argument)
        future = native.call(lib.tell_and_wait, argument)
        os.read(told, 1)
        with pytest.raises(BufferError):
            argument.append(1)  # lent: its memory cannot move
        del argument
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        gc.collect()
        assert gone() is not None
        os.write(write, b"z")
        while gone() is not None:
            await asyncio.sleep(0.001)
        for fd in (read, write, told, tell):
            os.close(fd)

    async def bounded():
        await asyncio.wait_for(main(), DELAY)

    run(bounded())


def test_close_waits_for_what_runs(backend, lib):
    loop = pyloop.Loop(backend=backend)
    read, write = os.pipe()
    told, tell = os.pipe()
    argument = Buffer(array.array("i", [tell, read]).tobytes())
    gone = weakref.ref(argument)
    result = []

    async def main(argument):
        result.append(native.call(lib.tell_and_wait, argument))
        os.read(told, 1)

    loop.run_until_complete(main(argument))
    del argument
    thread = threading.Thread(target=os.write, args=(write, b"z"))
    thread.start()
    loop.close()
    thread.join()
    assert not result[0].done()
    assert gone() is None
    for fd in (read, write, told, tell):
        os.close(fd)


def test_forgotten_loop_is_collected(backend, lib):
    loop = pyloop.Loop(backend=backend)
    ref = weakref.ref(loop)

    async def main():
        return native.call(lib.identity, 1)

    future = loop.run_until_complete(main())
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop, future
        gc.collect()
    gc.collect()
    assert ref() is None


@pytest.mark.skipif(os.environ.get("PYLOOP_SANITIZED") == "1",
                    reason="ASan bears no fork while another thread allocates: the child finds its lock held")
def test_fork_with_calls_on_their_way(backend, lib):
    program = textwrap.dedent("""
        import asyncio, os, sys, pyloop, ctypes
        from pyloop import native
        lib = ctypes.CDLL(sys.argv[1])
        async def main():
            read, write = os.pipe()
            future = native.call(lib.wait_for_byte, read)
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    asyncio._set_running_loop(None)
                    async def child():
                        return await native.call(lib.identity, 3)
                    assert pyloop.run(child()) == 3
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
            os.write(write, b"!")
            assert await future == 33
        pyloop.run(main())
        """)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, lib._name], capture_output=True, text=True,
                          timeout=60, check=False, env={**os.environ, "PYLOOP_BACKEND": backend})
    assert done.returncode == 0, done.stderr


def test_storm(run, lib):
    """Calls started, ended and cancelled in every order."""
    async def main():
        counter = array.array("q", [0])
        started = cancelled = 0
        for turn in range(50):
            futures = [native.call(lib.count, counter) for _ in range(40)]
            started += len(futures)
            if turn % 3 == 0:
                await asyncio.sleep(0)
            for number, future in enumerate(futures):
                if number % 3 == turn % 3:
                    future.cancel()
            results = await asyncio.gather(*futures, return_exceptions=True)
            cancelled += sum(isinstance(result, asyncio.CancelledError) for result in results)
        assert cancelled > 0
        ran = await native.call(lib.count, counter) - 1
        # A cancelled call may have started already.
        assert started - cancelled <= ran <= started

    run(main())


if sysconfig.get_config_var("Py_GIL_DISABLED"):
    def test_does_not_switch_the_gil_on():
        assert not sys._is_gil_enabled()


def test_ends_of_parallel_loops_with_calls_on_their_way(backend, lib):
    """Calls of every view: some ended and not yet told of, some running, some not started."""
    async def strand(futures):
        futures += [native.call(lib.identity, n) for n in range(50)]

    async def main():
        futures = []
        await asyncio.gather(*[pyloop.spawn(strand(futures)) for _ in range(8)])
        return futures

    for _ in range(10):
        loop = pyloop.Loop(backend=backend, parallel=True, workers=2)
        futures = loop.run_until_complete(main())
        loop.close()
        assert len(futures) == 400
