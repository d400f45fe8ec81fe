"""add_signal_handler(), Ctrl-C, and what the loop does with signals otherwise."""

import asyncio
import functools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import pyloop


@pytest.fixture(autouse=True)
def signals_are_restored():
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert signal.set_wakeup_fd(-1) == -1


def test_handler(loop):
    got = []

    def handler(*args):
        got.append(args)
        loop.stop()

    loop.add_signal_handler(signal.SIGUSR1, handler, 1, 2)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    assert got == [(1, 2)]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_handler_wakes_a_sleeping_loop(loop):
    loop.add_signal_handler(signal.SIGALRM, loop.stop)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    started = time.monotonic()
    loop.run_forever()
    assert time.monotonic() - started < 5
    loop.remove_signal_handler(signal.SIGALRM)


def test_signal_that_arrives_in_another_thread(loop):
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    main = threading.get_ident()

    def work():
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        assert threading.get_ident() != main

    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


def test_second_handler_replaces_the_first(loop):
    loop.add_signal_handler(signal.SIGUSR1, pytest.fail)
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    assert loop.remove_signal_handler(signal.SIGUSR1)


def test_sigchld_is_allowed_and_subprocesses_still_work(loop):
    count = 0

    def handler():
        nonlocal count
        count += 1

    async def main():
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        await asyncio.sleep(0.01)

    loop.add_signal_handler(signal.SIGCHLD, handler)
    loop.run_until_complete(main())
    loop.remove_signal_handler(signal.SIGCHLD)
    assert count == 1


def test_bad_arguments(loop):
    async def coroutine():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used with add_signal_handler"):
        loop.add_signal_handler(signal.SIGUSR1, coroutine)
    with pytest.raises(TypeError, match="sig must be an int"):
        loop.add_signal_handler("x", print)
    with pytest.raises(ValueError, match="invalid signal number"):
        loop.add_signal_handler(10000, print)
    with pytest.raises(RuntimeError, match="cannot be caught"):
        loop.add_signal_handler(signal.SIGKILL, print)


def test_only_in_the_main_thread(loop):
    errors = []

    def work():
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_close_removes_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_wakeup_fd_is_left_alone_without_handlers(loop):
    read, write = os.pipe()
    os.set_blocking(write, False)
    assert signal.set_wakeup_fd(write) == -1
    loop.run_until_complete(asyncio.sleep(0))
    assert signal.set_wakeup_fd(-1) == write
    os.close(read)
    os.close(write)


def test_python_handler_runs_while_the_loop_sleeps(loop):
    got = []
    signal.signal(signal.SIGALRM, lambda *args: (got.append(1), loop.stop()))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    loop.call_later(10, loop.stop)
    started = time.monotonic()
    loop.run_until_complete(asyncio.sleep(0))
    loop.call_soon(lambda: None)
    while not got and time.monotonic() - started < 5:
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
    assert got == [1]


def test_call_soon_threadsafe_from_a_python_handler(loop):
    signal.signal(signal.SIGALRM, lambda *args: loop.call_soon_threadsafe(loop.stop))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    started = time.monotonic()
    loop.run_forever()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("is_busy", [False, True])
def test_keyboard_interrupt_leaves_run_forever(loop, is_busy):
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    if is_busy:
        # Turns that never wait and run no bytecode: a callback in C that schedules itself.
        again = functools.partial(loop.call_soon)
        again.__setstate__((loop.call_soon, (again,), {}, {}))
        loop.call_soon(again)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert not loop.is_running()
    loop.run_until_complete(asyncio.sleep(0))


def test_runner_turns_ctrl_c_into_a_cancellation(backend):
    code = f"""if True:
        import asyncio, os, signal, pyloop
        async def main():
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                print("cancelled", flush=True)
                raise
        try:
            pyloop.run(main(), backend={backend!r})
        except KeyboardInterrupt:
            print("interrupted")
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert result.stdout == "cancelled\ninterrupted\n", result.stderr


def test_ctrl_c_from_outside_while_asleep(backend):
    code = f"""if True:
        import pyloop
        loop = pyloop.Loop(backend={backend!r})
        loop.call_soon(print, "ready", None)
        import sys
        loop.call_soon(sys.stdout.flush)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
        loop.close()
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready None\n"
        # The child is about to sleep or asleep; a signal is not lost in either state for good, but before
        # the sleep Python sees it only at the next one.
        deadline = time.monotonic() + 20
        while child.poll() is None and time.monotonic() < deadline:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
        assert child.stdout.read().startswith("interrupted")


def test_ten_thousand_signals_are_all_handled(loop):
    """Raised a hundred at a time, which Python's wakeup descriptor holds; other work goes on in between."""
    handled, turns = 0, 0

    def handler():
        nonlocal handled
        handled += 1
        if handled == 10_000:
            loop.stop()

    def storm(left):
        nonlocal turns
        turns += 1
        for _ in range(100):
            signal.raise_signal(signal.SIGUSR1)
        if left > 1:
            loop.call_soon(storm, left - 1)

    loop.add_signal_handler(signal.SIGUSR1, handler)
    loop.call_soon(storm, 100)
    loop.call_later(60, loop.stop)
    loop.run_forever()
    assert handled == 10_000 and turns == 100


def burst(loop, count):
    """How many of so many signals a loop keeps that could not run meanwhile."""
    handled = 0

    def handler():
        nonlocal handled
        handled += 1

    async def main():
        for _ in range(count):
            signal.raise_signal(signal.SIGUSR1)
        await asyncio.sleep(0.05)

    loop.add_signal_handler(signal.SIGUSR1, handler)
    loop.run_until_complete(main())
    loop.remove_signal_handler(signal.SIGUSR1)
    return handled


# Python reports each signal that its wakeup descriptor has no room for, on either loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_blocked_loop_keeps_as_many_signals_as_asyncio(loop):
    stock = asyncio.SelectorEventLoop()
    try:
        expected = burst(stock, 2_000)
    finally:
        stock.close()
    assert 0 < expected <= burst(loop, 2_000)


def test_one_signal_does_not_crowd_out_another(loop):
    """The socket that wakes the loop is full of the first one: asyncio loses the second."""
    got = []

    async def main():
        for _ in range(2_000):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR2)
        await asyncio.sleep(0.05)

    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, got.append, 2)
    loop.run_until_complete(main())
    assert got.count(2) == 1
    assert 1 < got.count(1) <= 2_000


STORM = """
import os, signal, sys
for _ in range(10_000):
    os.kill(int(sys.argv[1]), signal.SIGUSR1)
os.kill(int(sys.argv[1]), signal.SIGUSR2)
"""


def test_storm_from_another_process(run):
    """The kernel merges signals of one number: the last one comes all the same, and sockets are served."""
    async def main():
        loop = asyncio.get_running_loop()
        handled, ended = [], asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, handled.append, 1)
        loop.add_signal_handler(signal.SIGUSR2, ended.set)
        server = await asyncio.start_server(
            lambda reader, writer: writer.close(), "127.0.0.1", 0)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", STORM, str(os.getpid()))
        served = 0
        while not ended.is_set():
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            served += 1
        assert await process.wait() == 0 and handled and served
        server.close()
        await server.wait_closed()
        loop.remove_signal_handler(signal.SIGUSR1)
        loop.remove_signal_handler(signal.SIGUSR2)

    run(asyncio.wait_for(main(), 60))
