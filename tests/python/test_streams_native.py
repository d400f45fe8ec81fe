"""pyloop's own StreamReader and StreamWriter: what CPython's test_streams does not look at.

That suite itself runs against them in tests/cpython/run_tasks.py.
"""

import asyncio
import collections
import collections.abc
import contextvars
import gc
import random
import subprocess
import sys
import warnings
import weakref

import pytest

import pyloop
from pyloop import _core
from tls_kit import make_contexts


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return make_contexts(tmp_path_factory.mktemp("tls"))


async def pair(handler=None, **options):
    """A server's (reader, writer) and a client's, over TCP."""
    accepted = asyncio.get_running_loop().create_future()

    async def connected(reader, writer):
        accepted.set_result((reader, writer))
        if handler is not None:
            await handler(reader, writer)

    server = await pyloop.start_server(connected, "127.0.0.1", 0, **options)
    client = await pyloop.open_connection(*server.sockets[0].getsockname(), **options)
    return server, await accepted, client


async def finish(server, *writers):
    for writer in writers:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass
    server.close()
    await server.wait_closed()


def test_are_asyncio_s_classes():
    assert issubclass(pyloop.StreamReader, asyncio.StreamReader)
    assert issubclass(pyloop.StreamWriter, asyncio.StreamWriter)
    assert issubclass(pyloop.StreamReaderProtocol, asyncio.StreamReaderProtocol)


def test_each_way_of_reading(run):
    async def main():
        server, (_, theirs), (reader, writer) = await pair()
        theirs.write(b"one\ntwo\r\n--three;fourXYfive\n")
        theirs.writelines([b"six", b"seven"])
        theirs.write_eof()
        assert await reader.readline() == b"one\n"
        assert await reader.readuntil(b"\r\n") == b"two\r\n"
        assert await reader.readexactly(n=2) == b"--"
        assert await reader.readuntil(separator=b";") == b"three;"
        assert await reader.readuntil((b"XY", b"Z")) == b"fourXY"
        assert await anext(reader) == b"five\n"
        assert await reader.read(3) == b"six"
        assert await reader.read() == b"seven"
        assert reader.at_eof()
        assert await reader.read(1) == b"" == await reader.readline()
        with pytest.raises(StopAsyncIteration):
            await anext(reader)
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readexactly(4)
        assert (caught.value.partial, caught.value.expected) == (b"", 4)
        await finish(server, writer, theirs)
    run(main())


@pytest.mark.parametrize("seed", range(20))
def test_same_as_asyncio(run, seed):
    """The same pieces and the same calls: the same answers, the same rest in the buffer."""
    chance = random.Random(seed)
    pieces = [bytes(chance.choice(b"ab\n;") for _ in range(chance.randrange(0, 40)))
              for _ in range(chance.randrange(1, 30))]
    calls = [chance.choice([
        ("read", chance.randrange(0, 30)), ("readline",), ("readexactly", chance.randrange(0, 30)),
        ("readuntil", b";"), ("readuntil", b"ab"), ("readuntil", b"\n;\n")]) for _ in range(60)]

    async def answers(kind):
        reader = kind(limit=16, loop=asyncio.get_running_loop())
        waiting = iter(pieces)
        got = []
        for name, *args in calls:
            reading = getattr(reader, name)(*args)
            try:
                while True:
                    reading.send(None)  # suspended: what it waits for comes now
                    piece = next(waiting, None)
                    if piece is None:
                        reader.feed_eof()
                    else:
                        reader.feed_data(piece or b"-")
            except StopIteration as stop:
                outcome = stop.value
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
                outcome = repr(error)
            got.append((name, args, outcome, bytes(reader._buffer)))
        return got

    async def main():
        assert await answers(pyloop.StreamReader) == await answers(asyncio.StreamReader)
    run(main())


def test_nothing_happens_before_the_await(run):
    async def main():
        reader = pyloop.StreamReader()
        reader.feed_data(b"abc")
        first, second = reader.read(1), reader.read(2)
        assert await second == b"ab"
        assert await first == b"c"
        with pytest.raises(RuntimeError, match="already awaited"):
            await first
        assert isinstance(first, collections.abc.Coroutine) and asyncio.iscoroutine(first)
    run(main())


def test_cancelled_read_loses_nothing(run):
    async def main():
        server, (_, theirs), (reader, writer) = await pair()
        for name, *args in (("read", 10), ("readline",), ("readexactly", 5), ("readuntil", b"!")):
            task = asyncio.create_task(getattr(reader, name)(*args))
            await asyncio.sleep(0)
            reader.feed_data(b"hello")  # the task is woken, and then cancelled before it runs
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await reader.readexactly(5) == b"hello"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(10), 0.001)
        theirs.write(b"still here")
        assert await reader.read(100) == b"still here"
        await finish(server, writer, theirs)
    run(main())


def test_two_readers_at_once(run):
    async def main():
        reader = pyloop.StreamReader()
        first = asyncio.create_task(reader.read(1))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"^readexactly\(\) called while another coroutine is "
                                               "already waiting for incoming data$"):
            await reader.readexactly(3)
        reader.feed_data(b"x")
        assert await first == b"x"
    run(main())


def test_large_transfer_pauses_the_sender(run):
    size = 5_000_000

    async def main():
        server, (_, theirs), (reader, writer) = await pair(limit=4096)
        theirs.write(b"z" * size)
        drained = asyncio.create_task(theirs.drain())
        while not reader._paused:
            await asyncio.sleep(0)
        assert len(reader._buffer) < size // 4 and not drained.done()
        assert await reader.readexactly(size) == b"z" * size  # more than the limit: no deadlock
        await drained
        await finish(server, writer, theirs)
    run(main())


def test_drain_raises_what_broke_the_connection(run):
    async def main():
        server, (_, theirs), (reader, writer) = await pair()
        theirs.transport.abort()
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x" * 10_000)
                await writer.drain()
        await finish(server, writer)
    run(main())


def test_drain_waits_and_can_be_cancelled(run):
    async def main():
        server, (_, theirs), (reader, writer) = await pair()
        writer.transport.set_write_buffer_limits(1000)
        writer.write(b"y" * 10_000_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.001)
        task = asyncio.create_task(writer.drain())
        await asyncio.sleep(0)
        assert not task.done()
        theirs.transport.abort()
        with pytest.raises(ConnectionError):
            await task
        await finish(server, writer)
    run(main())


def test_wrong_arguments(run):
    async def main():
        reader = pyloop.StreamReader()
        with pytest.raises(ValueError, match="Limit cannot be <= 0"):
            pyloop.StreamReader(limit=0)
        with pytest.raises(ValueError, match="readexactly size can not be less than zero"):
            await reader.readexactly(-1)
        for separator, message in ((b"", "at least one-byte"), ((), "at least one element")):
            with pytest.raises(ValueError, match=message):
                await reader.readuntil(separator)
        for call in (lambda: reader.read("x"), lambda: reader.readexactly(None), lambda: reader.readuntil("x"),
                     lambda: reader.read(1, 2), lambda: reader.readexactly(), lambda: reader.read(m=1),
                     lambda: reader.feed_data("text"), lambda: pyloop.StreamReader(limit="a")):
            with pytest.raises(TypeError):
                await call()
        reader.feed_eof()
        with pytest.raises(AssertionError, match="feed_data after feed_eof"):
            reader.feed_data(b"x")
        blank = _core.StreamReaderCore.__new__(pyloop.StreamReader)
        with pytest.raises(RuntimeError, match="__init__"):
            blank.feed_data(b"x")
        with pytest.raises(RuntimeError, match="__init__"):
            await blank.read(1)
        writer = _core.StreamWriterCore.__new__(pyloop.StreamWriter)
        for method in (writer.drain, lambda: writer.write(b"")):
            with pytest.raises(RuntimeError, match="__init__"):
                method()
    run(main())


def test_an_idle_connection_holds_nothing_for_those_who_might_wait(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, (_, theirs), (_, writer) = await pair()
        protocol = theirs.transport.get_protocol()
        held = gc.get_referents(protocol)
        assert not any(isinstance(item, asyncio.Future | collections.deque) for item in held
                       if not isinstance(item, asyncio.Task))  # fmt: skip
        assert not protocol._drain_waiters
        protocol._drain_waiters.append("kept")
        assert protocol._drain_waiters.pop() == "kept"
        closed = protocol._closed
        assert closed is protocol._closed and not closed.done()
        assert closed.get_loop() is loop
        given = loop.create_future()
        protocol._closed = given
        assert protocol._closed is given
        await finish(server, theirs, writer)
        assert given.done() and not closed.done()
        assert theirs.transport.is_closing()

    run(main())


def loop_kinds():
    """Ways of making the handler's task: name, what prepares the loop."""
    yield "ours", lambda loop: None
    yield "debug", lambda loop: loop.set_debug(True)
    yield "asyncio's task", lambda loop: loop.set_task_factory(
        lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))
    yield "a subclass", lambda loop: loop.set_task_factory(
        lambda loop, coro, **options: type("Mine", (_core.Task,), {})(coro, loop=loop, **options))
    if hasattr(asyncio, "eager_task_factory"):
        yield "eager", lambda loop: loop.set_task_factory(asyncio.eager_task_factory)


@pytest.fixture(params=[*loop_kinds(), ("asyncio's loop", None)], ids=lambda kind: kind[0])
def run_each(request, run, reports):
    """run(), with each kind of task, and on asyncio's loop."""
    _, prepare = request.param

    async def prepared(main):
        prepare(asyncio.get_running_loop())
        await main()

    def run_stock(main):
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(lambda _, context: reports.append(context))
            runner.run(main())

    return run_stock if prepare is None else lambda main: run(prepared(main))


async def served(handler):
    """What a client hears of a server with that handler: all until the end."""
    server = await pyloop.start_server(handler, "127.0.0.1", 0)
    reader, writer = await pyloop.open_connection(*server.sockets[0].getsockname())
    heard = await asyncio.wait_for(reader.read(), 10)
    await finish(server, writer)
    return heard


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later"])
def test_a_handler_that_fails_is_reported_and_its_connection_closed(run_each, reports, waits):
    error = ValueError("of the handler")
    transports = []

    async def handler(reader, writer):
        transports.append(writer.transport)
        writer.write(b"so far")
        if waits:
            await asyncio.sleep(0)
        raise error

    async def main():
        assert await served(handler) == b"so far"

    run_each(main)
    assert reports == [{"message": "Unhandled exception in client_connected_cb", "exception": error,
                        "transport": transports[0]}]
    reports.clear()


def test_a_handler_that_is_cancelled_closes_its_connection_without_a_word(run_each):
    async def handler(reader, writer):
        writer.write(b"so far")
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    async def main():
        assert await served(handler) == b"so far"

    run_each(main)


def test_a_handler_that_returns_leaves_its_connection_open(run_each):
    async def main():
        server, (_, theirs), (reader, writer) = await pair()
        protocol = theirs.transport.get_protocol()
        await asyncio.sleep(0)
        assert protocol._task is None or protocol._task.done()
        await asyncio.sleep(0)
        assert protocol._task_transport is None and not theirs.is_closing()
        theirs.write(b"later\n")
        assert await reader.readline() == b"later\n"
        await finish(server, writer, theirs)

    run_each(main)


def test_a_handler_may_be_a_function_and_one_that_raises_ends_the_connection(run_each, reports):
    def handler(reader, writer):
        writer.write(b"from a function")
        writer.close()

    def failing(reader, writer):
        raise ValueError("at once")

    async def main():
        assert await served(handler) == b"from a function"
        assert await served(failing) == b""

    run_each(main)
    assert [str(report["exception"]) for report in reports] == ["at once"]
    assert reports[0]["message"] == "Unhandled exception in client_connected_cb"
    reports.clear()


def test_a_rejected_connection_is_aborted(run, reports):
    async def main():
        def factory():
            protocol = pyloop.StreamReaderProtocol(pyloop.StreamReader(), lambda *_: pytest.fail("called"))
            protocol._reject_connection = True
            return protocol

        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        reader, writer = await pyloop.open_connection(*server.sockets[0].getsockname())
        with pytest.raises(ConnectionResetError):
            assert await reader.read() == b""
            raise ConnectionResetError  # whether it is a reset is the transport's affair
        await finish(server, writer)

    run(main())
    assert ["garbage collected prior to" in report["message"] for report in reports] == [True]
    reports.clear()


def test_what_hears_of_the_handler_s_end_is_a_callback_like_any_other(run, reports):
    order = []
    variable = contextvars.ContextVar("variable")

    async def main():
        forever = asyncio.get_running_loop().create_future()
        server, (_, theirs), (_, writer) = await pair(lambda *_: forever)
        protocol, task = theirs.transport.get_protocol(), None
        while task is None:
            await asyncio.sleep(0)
            task = protocol._task
        (callback, context), = task._callbacks
        assert callback == protocol._handler_ended
        assert variable not in context
        assert "_handler_ended" in repr(task)
        task.add_done_callback(lambda _: order.append(len(reports)))
        forever.set_exception(ValueError("later"))
        await asyncio.wait([task])
        assert order == [1]  # the protocol's came first
        reports.clear()
        await finish(server, writer, theirs)

        forever = asyncio.get_running_loop().create_future()
        server, (_, theirs), (_, writer) = await pair(lambda *_: forever)
        await asyncio.sleep(0)
        protocol = theirs.transport.get_protocol()
        task = protocol._task
        assert task.remove_done_callback(protocol._handler_ended) == 1
        assert task._callbacks is None
        forever.set_exception(ValueError("nobody is told"))
        await asyncio.wait([task])
        assert isinstance(task.exception(), ValueError) and not theirs.is_closing()
        await finish(server, writer, theirs)

    run(main())


def test_the_connection_of_a_handler_that_goes_on_after_its_end_is_collected(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, (reader, theirs), (_, writer) = await pair(lambda *_: loop.create_future())
        protocol = theirs.transport.get_protocol()
        await asyncio.sleep(0)
        gone = weakref.ref(protocol)
        await finish(server, writer, theirs)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert len(tasks) == 1 and protocol._task is None
        tasks[0].cancel()
        del protocol
        await asyncio.wait(tasks)
        del tasks, reader, theirs, server  # which knows both
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None

    run(main())


def test_a_protocol_keeps_nothing_in_a_dictionary_but_takes_what_others_put_there(run):
    async def main():
        server, (reader, theirs), (_, writer) = await pair()
        protocol = theirs.transport.get_protocol()
        for core in (reader, theirs, protocol):
            assert vars(core) == {}
            core.mine = 1
            assert vars(core) == {"mine": 1}
        assert protocol._client_connected_cb is not None and protocol._transport is theirs.transport
        assert protocol._strong_reader is None and protocol._source_traceback is None
        assert protocol._over_ssl is False and protocol._reject_connection is False
        await finish(server, writer, theirs)
        assert protocol._transport is None and protocol._stream_reader is None

    run(main())


def test_overridden_methods_are_called(run):
    seen = []

    class Reader(pyloop.StreamReader):
        def feed_data(self, data):
            seen.append(bytes(data))
            super().feed_data(data)

    class Protocol(pyloop.StreamReaderProtocol):
        def data_received(self, data):
            seen.append("protocol")
            super().data_received(data)

    async def main():
        loop = asyncio.get_running_loop()
        server, (_, theirs), (_, writer) = await pair()
        original = writer.transport.get_protocol()
        reader = Reader(loop=loop)
        for kind in (pyloop.StreamReaderProtocol, Protocol):
            writer.transport.set_protocol(kind(reader, loop=loop))
            theirs.write(b"data")
            assert await reader.read(10) == b"data"
        assert seen == [b"data", "protocol", b"data"]
        writer.transport.set_protocol(original)
        await finish(server, writer, theirs)
    run(main())


def test_data_for_a_reader_that_is_gone(run):
    async def main():
        server, (_, theirs), (reader, writer) = await pair()
        transport = writer.transport
        gone = weakref.ref(reader)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the writer was not closed, either
            reader = writer = None
            gc.collect()
        assert gone() is None and transport.is_closing()
        transport.get_protocol().data_received(b"for nobody")
        assert await theirs_sees_the_end(theirs)
        await finish(server, theirs)

    async def theirs_sees_the_end(theirs):
        return await theirs._reader.read() == b""
    run(main())


def test_what_start_tls_takes_from_the_buffer_is_not_read_again(run):
    async def main():
        reader = pyloop.StreamReader()
        reader.feed_data(b"hello of a client")
        unread = reader._buffer
        assert unread == b"hello of a client" and reader._buffer == unread
        unread.clear()
        assert reader._buffer == b"" == unread
        with pytest.raises(AttributeError):
            reader._buffer = b"other"
        reader.feed_data(b"line\n")
        assert await reader.readline() == b"line\n"

    run(main())


def test_tls_and_start_tls(run, contexts):
    server_context, client_context = contexts

    async def upgrade(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.start_tls(server_context)
        writer.write(await reader.readline())

    async def main():
        server, _, (reader, writer) = await pair(upgrade)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        writer.write(b"secret\n")
        assert await reader.readline() == b"secret\n"
        await finish(server, writer)
    run(main())


def test_unix(run, tmp_path):
    async def echo(reader, writer):
        async for line in reader:
            writer.write(line)
        writer.close()

    async def main():
        server = await pyloop.start_unix_server(echo, tmp_path / "s")
        reader, writer = await pyloop.open_unix_connection(tmp_path / "s")
        assert type(reader) is pyloop.StreamReader
        writer.write(b"a\nb\n")
        writer.write_eof()
        assert await reader.read() == b"a\nb\n"
        await finish(server, writer)
    run(main())


def test_other_loops_work_too():
    async def main():
        server, (_, theirs), (reader, writer) = await pair()
        theirs.write(b"line\n")
        assert await reader.readline() == b"line\n"
        writer.write(b"back")
        await writer.drain()
        await finish(server, writer, theirs)
    with asyncio.Runner() as runner:
        runner.run(main())


def test_install():
    program = """
import asyncio, warnings
warnings.simplefilter("ignore")
import pyloop
pyloop.install(streams=True)
assert asyncio.StreamReader is asyncio.streams.StreamReader is pyloop.StreamReader
assert asyncio.open_connection is pyloop.open_connection
async def main():
    async def echo(reader, writer):
        assert type(reader) is pyloop.StreamReader and type(writer) is pyloop.StreamWriter
        writer.write(await reader.readline())
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x\\n")
    assert await reader.read() == b"x\\n"
    writer.close()
    server.close()
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=-1, stdout=-1)
    assert (await process.communicate(b"through"))[0] == b"through"
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_two_handlers_of_one_protocol_close_their_own_connections(run, reports):
    class Connection(asyncio.Transport):
        is_closed = False

        def is_closing(self):
            return self.is_closed

        def close(self):
            self.is_closed = True

        def pause_reading(self):
            pass

        resume_reading = pause_reading

    async def main():
        loop = asyncio.get_running_loop()
        ends = [loop.create_future(), loop.create_future()]
        waiting = iter(ends)

        async def handler(reader, writer):
            await next(waiting)

        protocol = pyloop.StreamReaderProtocol(pyloop.StreamReader(), handler)
        connections = [Connection(), Connection()]
        tasks = []
        for connection in connections:
            protocol._stream_reader._transport = None  # as StreamWriter.start_tls() has it replaced
            protocol.connection_made(connection)
            tasks.append(protocol._task)
            await asyncio.sleep(0)
        ends[0].set_exception(ValueError("the first"))
        await asyncio.wait(tasks[:1])
        await asyncio.sleep(0)
        assert [connection.is_closed for connection in connections] == [True, False]
        ends[1].set_exception(ValueError("the second"))
        await asyncio.wait(tasks)
        await asyncio.sleep(0)
        assert [connection.is_closed for connection in connections] == [True, True]

    run(main())
    assert [str(report["exception"]) for report in reports] == ["the first", "the second"]
    reports.clear()
