"""The C interface for extensions: tests/extension/example.c, compiled against the installed headers."""

import asyncio
import errno
import gc
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import sysconfig
import textwrap

import pytest

import pyloop
from extension_kit import FOLDER, compile_extension, load, needs_compiler
from parallel_kit import parallel_runner, there

SOURCE = FOLDER / "example.c"
TIMEOUT = 20

pytestmark = needs_compiler


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    return compile_extension(tmp_path_factory.mktemp("extension"), SOURCE, "pyloop_example")


@pytest.fixture(scope="session")
def loaded(built):
    return load(built, "pyloop_example")


@pytest.fixture
def example(loaded):
    yield loaded
    gc.collect()
    assert loaded.live() == 0


@pytest.fixture
def gate():
    """A pipe that threads of the example wait at, one byte for each."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def finish(pair, example):
    future, thread = pair
    try:
        return await asyncio.wait_for(future, TIMEOUT)
    finally:
        example.join(thread)


# ---- import


def test_needs_a_running_loop_of_ours(example):
    for start in (lambda: example.answer("r", 1), lambda: example.run(print), lambda: example.add_up(3),
                  lambda: example.later(1, 1)):
        with pytest.raises(RuntimeError, match="no running event loop"):
            start()

        async def main():
            with pytest.raises(RuntimeError, match="no pyloop.Loop"):
                start()

        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(main())


@pytest.mark.parametrize("option", ["-DPYLOOP_PY_ABI=999", "-DCAPSULE=_C_API_THAT_IS_NOT_THERE"])
def test_refuses_another_version(tmp_path, option):
    source = tmp_path / "other.c"
    header = pathlib.Path(pyloop.get_include(), "pyloop", "python.h").read_text()
    if "ABI" in option:
        header = header.replace("#define PYLOOP_PY_ABI 1\n", "")
    else:
        header = header.replace("_C_API", option.partition("=")[2])
        option = "-DNOTHING"
    source.write_text(header + SOURCE.read_text().replace("#include <pyloop/python.h>", ""))
    path = compile_extension(tmp_path, source, "pyloop_example", options=[option])
    with pytest.raises(ImportError, match="C interface"):
        load(path, "pyloop_example")


def test_headers_are_whole_and_cpp_may_use_them(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    source = tmp_path / "plus.cc"
    source.write_text("#include <pyloop/python.h>\nint main() { return pyloop_py_import(); }\n")
    subprocess.run([compiler, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-I",
                    pyloop.get_include(), "-isystem", sysconfig.get_path("include"), source], check=True)


# ---- futures completed by a thread


def test_a_thread_completes_a_future(run, example):
    async def main():
        assert await finish(example.answer("r", 42), example) == 42
        thing = object()
        assert await finish(example.answer("o", 0, -1, thing), example) is thing
        with pytest.raises(ValueError, match="negative: -7"):
            await finish(example.answer("r", -7), example)
        with pytest.raises(PermissionError) as caught:
            await finish(example.answer("e", -errno.EACCES), example)
        assert caught.value.errno == errno.EACCES
        with pytest.raises(SystemError, match="no result and no exception"):
            await finish(example.answer("n", 0), example)
        future, thread = example.answer("a", 0)
        await asyncio.wait([future])
        assert future.cancelled()
        example.join(thread)

    run(main())


def test_many_futures_at_once(run, example):
    async def main():
        pairs = [example.answer("r", n) for n in range(200)]
        assert await asyncio.gather(*[future for future, _ in pairs]) == list(range(200))
        for _, thread in pairs:
            example.join(thread)

    run(main())


def test_a_cancelled_future_drops_what_comes(run, example, gate):
    async def main():
        for kind in "roea":
            future, thread = example.answer(kind, 1, gate[0], object())
            future.cancel()
            os.write(gate[1], b".")
            example.join(thread)
        future, thread = example.answer("w", 0)  # ends because it is not wanted any more
        future.cancel()
        example.join(thread)
        await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("kind", list("roea"))
def test_the_loop_is_closed_before_the_thread_completes(new_loop, example, gate, kind):
    loop = new_loop()

    async def main():
        return example.answer(kind, 1, gate[0], object())

    future, thread = loop.run_until_complete(main())
    loop.close()
    os.write(gate[1], b".")
    example.join(thread)
    assert not future.done()


@pytest.mark.parametrize("kind", list("roea"))
def test_the_loop_is_closed_with_a_completion_on_its_way(new_loop, example, gate, kind):
    loop = new_loop()

    async def main():
        return example.answer(kind, 1, gate[0], object())

    future, thread = loop.run_until_complete(main())
    os.write(gate[1], b".")
    example.join(thread)
    loop.close()
    assert example.live() == 0
    del future


def test_a_loop_is_collected_with_a_promise_out(backend, example, gate):
    async def main():
        return example.answer("r", 1, gate[0])

    loop = pyloop.Loop(backend=backend)
    future, thread = loop.run_until_complete(main())
    del loop, future
    with pytest.warns(ResourceWarning):
        gc.collect()
    os.write(gate[1], b".")
    example.join(thread)


# ---- calls and coroutines


def test_calls_into_the_loop(run, example, reports):
    async def main():
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        thread = example.run(lambda: called.set_result(asyncio.get_running_loop()))
        assert await asyncio.wait_for(called, TIMEOUT) is loop
        example.join(thread)
        example.join(example.run(lambda: 1 / 0))
        while not reports:
            await asyncio.sleep(0)
        assert isinstance(reports.pop()["exception"], ZeroDivisionError)

    run(main())


def run_coroutine(example, function, gate=-1):
    outcome = asyncio.get_running_loop().create_future()
    thread = example.run(function, lambda *told: outcome.set_result(told), gate)
    return outcome, thread


def test_a_coroutine_from_a_thread(run, example):
    async def double(number):
        await asyncio.sleep(0)
        return number * 2

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("gone")

    async def end():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def main():
        assert await finish(run_coroutine(example, lambda: double(21)), example) == (42, None)
        _, error = await finish(run_coroutine(example, fail), example)
        assert type(error) is KeyError
        _, error = await finish(run_coroutine(example, end), example)
        assert type(error) is asyncio.CancelledError
        _, error = await finish(run_coroutine(example, lambda: 1 / 0), example)
        assert type(error) is ZeroDivisionError
        _, error = await finish(run_coroutine(example, lambda: 5), example)
        assert type(error) is TypeError

    run(main())


def test_pyloop_keeps_the_coroutine_alive(run, example):
    async def wait(box):
        box.append(asyncio.get_running_loop().create_future())
        return await box[0]

    async def main():
        box = []
        outcome, thread = run_coroutine(example, lambda: wait(box))
        while not box:
            await asyncio.sleep(0)
        gc.collect()
        box[0].set_result("kept")
        assert await finish((outcome, thread), example) == ("kept", None)

    run(main())


def test_the_loop_is_closed_before_a_coroutine_ends(new_loop, example, gate):
    async def wait(begun):
        begun.append(True)
        await asyncio.get_running_loop().create_future()

    loop = new_loop()
    told, begun = [], []

    async def main():
        first = example.run(lambda: wait(begun), lambda *outcome: told.append(outcome))
        while not begun:
            await asyncio.sleep(0)
        second = example.run(lambda: wait(begun), lambda *outcome: told.append(outcome), gate[0])
        return first, second

    first, second = loop.run_until_complete(main())
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
    loop.close()
    assert told == [(None, None)]  # the one that ran; of the other its thread hears
    os.write(gate[1], b".")
    example.join(first)
    example.join(second)
    assert told == [(None, None)] and begun == [True]


# ---- native tasks


def test_a_native_task_is_awaited(run, example):
    async def main():
        assert await example.add_up(10) == 55
        assert await example.add_up(3, 1000) == 6
        assert await asyncio.gather(*[example.add_up(n) for n in range(100)]) == [
            n * (n + 1) // 2 for n in range(100)]

    run(main())


def test_a_native_task_is_cancelled(run, example):
    async def main():
        future = example.add_up(5, 3600 * 10**9)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(example.add_up(5, 3600 * 10**9), 0.01)
        while example.live():
            await asyncio.sleep(0)

    run(main())


def test_closing_the_loop_ends_native_tasks(new_loop, example):
    loop = new_loop()

    async def main():
        return [example.add_up(5, 3600 * 10**9) for _ in range(10)]

    futures = loop.run_until_complete(main())
    loop.close()
    assert example.live() == 0
    assert not any(future.done() for future in futures)


def test_python_runs_while_a_native_step_does(run, example, gate):
    async def main():
        future = example.hold(gate[0])
        for _ in range(100):
            await asyncio.sleep(0)
        os.write(gate[1], b".")
        assert await asyncio.wait_for(future, TIMEOUT) == 1

    run(main())


def test_a_buffer_is_lent_to_a_native_task(run, example):
    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            buffer = bytearray(16)
            future = example.fill(ours.fileno(), buffer)
            with pytest.raises(BufferError):
                buffer.append(0)
            theirs.send(b"hello")
            assert await asyncio.wait_for(future, TIMEOUT) == 5
            assert buffer[:5] == b"hello"
            buffer.append(0)

            future = example.fill(ours.fileno(), buffer)
            future.cancel()
            while example.live():  # locked until the operation has ended
                await asyncio.sleep(0)
            buffer.append(0)
            with pytest.raises(BufferError):
                example.fill(ours.fileno(), b"read-only")

    run(main())


# ---- native tasks that wait for coroutines


async def double(number):
    await asyncio.sleep(0)
    return number * 2


async def fail(number):
    await asyncio.sleep(0)
    raise KeyError("gone")


async def end_itself(number):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def ask(example, function, count=1):
    return await asyncio.wait_for(example.ask(function, count, example.port()), TIMEOUT)


async def ask_everything(example):
    assert await ask(example, double, 0) == (0, 0, None)
    assert await ask(example, double, 3) == (12, 2, None)
    for function, kind in ((fail, KeyError), (end_itself, asyncio.CancelledError),
                           (lambda number: 1 / 0, ZeroDivisionError), (lambda number: number, TypeError)):
        total, result, exception = await ask(example, function, 2)
        assert (total, result, type(exception)) == (0, -errno.EIO, kind)
    answers = await asyncio.gather(*[ask(example, double, count) for count in range(20)])
    assert [total for total, _, _ in answers] == [count * (count + 1) for count in range(20)]


def test_a_native_task_waits_for_coroutines(run, example):
    run(ask_everything(example))


def test_what_takes_the_outcome_may_fail(run, example, monkeypatch):
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: raised.append(args.exc_type))

    async def text(number):
        return "text"

    async def main():
        assert await ask(example, text) == (0, -errno.EDOM, None)

    run(main())
    assert raised == [TypeError]


class Sleeper:
    """A coroutine function that waits for ever, and what became of its calls."""

    def __init__(self):
        self.begun = 0
        self.cancelled = 0

    async def __call__(self, number):
        self.begun += 1
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def test_a_cancelled_native_task_cancels_the_coroutine(run, example):
    async def main():
        sleeper = Sleeper()
        future = example.ask(sleeper, 1, example.port())
        while not sleeper.begun:
            await asyncio.sleep(0)
        future.cancel()
        while example.live() or not sleeper.cancelled:
            await asyncio.sleep(0)
        assert (sleeper.begun, sleeper.cancelled) == (1, 1)

    run(asyncio.wait_for(main(), TIMEOUT))


def test_a_native_task_is_cancelled_while_it_makes_the_coroutine(run, example):
    """What it makes is cancelled; the native task, whose memory `make` uses, goes on after that."""
    async def main():
        sleeper = Sleeper()
        made = []

        def make(number):
            future.cancel()
            os.sched_yield()  # its worker may see it now or later
            made.append(sleeper(number))
            return made[-1]

        for _ in range(50):
            future = example.ask(make, 1, example.port())
            while example.live() or not made or made[-1].cr_frame is not None:
                await asyncio.sleep(0)
            made.clear()
        assert sleeper.begun == sleeper.cancelled

    run(asyncio.wait_for(main(), TIMEOUT))


def test_cancellations_at_any_moment(run, example):
    async def main():
        sleeper = Sleeper()
        futures = []
        for turn in range(300):
            futures.append(example.ask(double if turn % 2 else sleeper, 3, example.port()))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            futures[turn // 2].cancel()
        for future in futures:
            future.cancel()
        while example.live() or sleeper.begun != sleeper.cancelled:
            await asyncio.sleep(0)
        for future in futures:
            assert future.cancelled() or future.result() == (12, 2, None)

    run(asyncio.wait_for(main(), TIMEOUT))


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # closed before its first step
@pytest.mark.parametrize("turns", [0, 1, 20])
def test_the_loop_is_closed_while_native_tasks_wait_for_coroutines(new_loop, example, turns):
    async def main():
        futures = [example.ask(sleeper, 1, example.port()) for _ in range(10)]
        for _ in range(turns):
            await asyncio.sleep(0)
        return futures

    sleeper = Sleeper()
    loop = new_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
    futures = loop.run_until_complete(main())
    loop.close()
    assert example.live() == 0
    assert not any(future.done() for future in futures)


def test_the_end_of_a_program_cancels_the_coroutines(backend, example):
    """asyncio.run() cancels them like all other tasks, and the native task hears of it."""
    sleeper = Sleeper()
    outcome = []

    async def main():
        future = example.ask(sleeper, 1, example.port())
        future.add_done_callback(lambda future: outcome.append(future.result()))
        while not sleeper.begun:
            await asyncio.sleep(0)

    async def settle():
        while not outcome:
            await asyncio.sleep(0)

    loop = pyloop.Loop(backend=backend)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        runner.run(asyncio.wait_for(settle(), TIMEOUT))
    (_, result, exception), = outcome
    assert result == -errno.EIO and isinstance(exception, asyncio.CancelledError)


def test_a_coroutine_of_another_loop(new_loop, example):
    """Its loop does not run: neither the one nor the other can be kept from closing by that."""
    ours, other = new_loop(), new_loop()

    async def get_port():
        return example.port()

    async def start(port):
        return [example.ask(double, 1, port) for _ in range(3)]

    port = other.run_until_complete(get_port())
    futures = ours.run_until_complete(start(port))
    ours.close()
    assert example.live() == 0
    other.close()
    assert not any(future.done() for future in futures)

    ours = new_loop()
    futures = ours.run_until_complete(start(port))
    assert ours.run_until_complete(asyncio.wait_for(futures[0], TIMEOUT)) == (0, -errno.ECANCELED, None)
    ours.close()


def test_a_loop_is_closed_while_a_native_task_of_another_waits(new_loop, example):
    ours, other = new_loop(), new_loop()
    sleeper = Sleeper()
    other.set_exception_handler(lambda *_: None)

    async def get_port():
        return example.port()

    async def start(port):
        return example.ask(sleeper, 1, port)

    async def begin():
        while not sleeper.begun:
            await asyncio.sleep(0)

    future = ours.run_until_complete(start(other.run_until_complete(get_port())))
    other.run_until_complete(asyncio.wait_for(begin(), TIMEOUT))
    other.close()
    assert ours.run_until_complete(asyncio.wait_for(future, TIMEOUT)) == (0, -errno.ECANCELED, None)


# ---- timers without a task


def test_a_timer_without_a_task(run, example):
    async def main():
        future, timer = example.later(1000, 8)
        assert await asyncio.wait_for(future, TIMEOUT) == 8
        example.stop(timer)

    run(main())


# ---- memory


def test_memory_of_c_is_a_buffer(example):
    view = example.block(5, True)
    assert bytes(view) == b"xxxxx" and not view.readonly
    view[0] = ord("y")
    part = view[:2]
    del view
    assert example.live() == 1 and bytes(part) == b"yx"
    part.release()
    assert example.live() == 0

    with example.block(0, False) as empty:
        assert len(empty) == 0 and empty.readonly
    assert example.live() == 0


def test_lent_memory_is_sent_without_a_copy(run, example):
    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for sock in (ours, theirs):
                sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(ours, example.block(1000, False))
            assert await loop.sock_recv(theirs, 2000) == b"x" * 1000

    run(main())
    gc.collect()


# ---- parallel mode


def test_all_of_it_in_parallel_mode(backend, example):
    async def use():
        numbers = [example.answer("r", n) for n in range(20)]
        assert await asyncio.gather(*[future for future, _ in numbers]) == list(range(20))
        for _, thread in numbers:
            example.join(thread)
        assert await asyncio.gather(*[example.add_up(n) for n in range(20)]) == [
            n * (n + 1) // 2 for n in range(20)]
        task = example.add_up(2, 3600 * 10**9)
        await asyncio.sleep(0)
        task.cancel()
        outcome, thread = run_coroutine(example, lambda: asyncio.sleep(0, "slept"))
        assert await finish((outcome, thread), example) == ("slept", None)

    async def main():
        await asyncio.gather(*[pyloop.spawn(use()) for _ in range(8)])
        while example.live():
            await asyncio.sleep(0)

    with parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert reports == []


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="without a GIL the lanes do native work")
def test_python_runs_in_every_view_while_native_steps_do(backend, example, gate):
    async def use():
        future = example.hold(gate[0])
        for _ in range(100):
            await asyncio.sleep(0)
        return future, asyncio.get_running_loop()

    async def finish_there(future):
        return await asyncio.wait_for(future, TIMEOUT)

    async def main():
        here, view = await use()
        there_too, other = await there(use())
        assert view is not other
        os.write(gate[1], b".")
        assert await finish_there(here) == 1
        assert await there(finish_there(there_too)) == 1

    with parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert reports == []


def test_native_tasks_wait_for_coroutines_in_parallel_mode(backend, example):
    async def main():
        await asyncio.gather(*[pyloop.spawn(ask_everything(example)) for _ in range(4)])
        # The coroutine runs in the view of its port, whatever the worker of the task.
        here, elsewhere = asyncio.get_running_loop(), []

        async def look(number):
            elsewhere.append(asyncio.get_running_loop())
            return number

        async def get_port():
            return example.port(), asyncio.get_running_loop()

        port, view = await there(get_port())
        assert await asyncio.wait_for(example.ask(look, 2, port), TIMEOUT) == (3, 1, None)
        assert elsewhere == [view, view] and view is not here
        sleeper = Sleeper()
        future = example.ask(sleeper, 1, port)
        while not sleeper.begun:
            await asyncio.sleep(0)
        future.cancel()
        while example.live() or not sleeper.cancelled:
            await asyncio.sleep(0)

    with parallel_runner(backend) as (runner, reports):
        runner.run(asyncio.wait_for(main(), TIMEOUT))
    assert reports == []


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # closed before its first step
@pytest.mark.parametrize("turns", [0, 1, 20])
def test_closing_in_parallel_mode_ends_waits_for_coroutines(backend, example, turns):
    sleeper = Sleeper()

    async def start(ports):
        ports.append(example.port())
        futures = [example.ask(sleeper, 1, port) for port in ports for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        return futures

    async def main():
        ports = []
        await asyncio.gather(there(start(ports)), *[pyloop.spawn(start(ports)) for _ in range(4)])

    with parallel_runner(backend) as (runner, _):
        runner.run(main())
    assert example.live() == 0


def test_closing_in_parallel_mode_ends_native_tasks(backend, example):
    async def start():
        return [example.add_up(2, 3600 * 10**9) for _ in range(10)]

    async def main():
        await asyncio.gather(*[pyloop.spawn(start()) for _ in range(4)])

    with parallel_runner(backend) as (runner, reports):
        runner.run(main())
    assert reports == []
    assert example.live() == 0


# ---- the end of the process


@pytest.mark.parametrize("end", ["pass", "loop.close()", "sys.exit(3)", pytest.param(
    "os.fork() or os._exit(forked())", marks=pytest.mark.skipif(
        os.environ.get("PYLOOP_SANITIZED") == "1", reason="ASan bears no fork while another thread allocates"))])
@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
def test_the_interpreter_ends_with_work_on_its_way(backend, built, end, parallel):
    program = f"""
        import asyncio, importlib.util, os, sys
        import pyloop
        spec = importlib.util.spec_from_file_location("pyloop_example", {str(built)!r})
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        loop = pyloop.Loop(backend={backend!r}, parallel={parallel})
        gate = os.pipe()

        def forked():
            assert loop.is_closed()
            loop.close()
            loop_of_child = pyloop.Loop(backend={backend!r})
            async def add():
                return await example.add_up(4)
            assert loop_of_child.run_until_complete(add()) == 10
            loop_of_child.close()
            return 0

        async def main():
            kept = [example.answer("r", 1, gate[0]), example.add_up(3, 10**12), example.block(3, True)]
            example.run(lambda: asyncio.sleep(1000), lambda *_: None)
            begun = asyncio.Event()

            async def wait(number):
                begun.set()
                await asyncio.sleep(1000)

            kept += [example.ask(wait, 1, example.port())]
            await begun.wait()
            await example.add_up(100)
            return kept

        kept = loop.run_until_complete(main())
        os.write(gate[1], b".")
        {end}
        if {"fork" in end}:
            pid, status = os.wait()
            assert status == 0, status
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == (3 if "exit(3)" in end else 0), done.stderr
    assert "Fatal" not in done.stderr and "Traceback" not in done.stderr, done.stderr
