"""What uvloop lacks and pyloop has: one test for each row of the README's table (G1 to G16)."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest

import pyloop
from tls_kit import make_contexts
from transport_kit import Recorder

TIMEOUT = 20


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return make_contexts(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def sockets(kind=socket.SOCK_STREAM, count=2):
    """Connected stream sockets, or datagram sockets bound to 127.0.0.1."""
    if kind == socket.SOCK_STREAM:
        made = socket.socketpair()
    else:
        made = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
        for sock in made:
            sock.bind(("127.0.0.1", 0))
    for sock in made:
        sock.setblocking(False)
    with contextlib.ExitStack() as stack:
        for sock in made:
            stack.enter_context(sock)
        yield made


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.got = asyncio.Queue()
        self.flow = []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.got.put_nowait((data, addr))

    def pause_writing(self):
        self.flow.append("pause")

    def resume_writing(self):
        self.flow.append("resume")


async def read_all(sock):
    """Everything up to the end of the stream."""
    loop = asyncio.get_running_loop()
    got = b""
    while data := await loop.sock_recv(sock, 1 << 16):
        got += data
    return got


@pytest.mark.parametrize("fallback", [False, True])
def test_g01_sendfile(run, tmp_path, fallback):
    """loop.sendfile() to a transport and loop.sock_sendfile() to a socket, from an offset."""
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)

    async def main():
        loop = asyncio.get_running_loop()
        with sockets() as (a, b), open(tmp_path / "file", "rb") as file:
            reading = asyncio.ensure_future(read_all(b))
            assert await loop.sock_sendfile(a, file, 10, 200_000, fallback=fallback) == 200_000
            assert file.tell() == 200_010
            a.close()
            assert await reading == content[10:200_010]
        with sockets() as (a, b), open(tmp_path / "file", "rb") as file:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=a)
            reading = asyncio.ensure_future(read_all(b))
            transport.write(b"head")
            assert await loop.sendfile(transport, file, fallback=fallback) == len(content)
            transport.write(b"tail")
            transport.close()
            assert await reading == b"head" + content + b"tail"

    run(main())


def test_g02_sock_recvfrom_sendto(run):
    """sock_recvfrom(), sock_recvfrom_into() and sock_sendto(), also when they have to wait."""
    async def main():
        loop = asyncio.get_running_loop()
        with sockets(socket.SOCK_DGRAM) as (a, b):
            waiting = asyncio.ensure_future(loop.sock_recvfrom(b, 100))
            await asyncio.sleep(0)
            assert await loop.sock_sendto(a, b"one", b.getsockname()) == 3
            assert await waiting == (b"one", a.getsockname())
            buffer = bytearray(10)
            await loop.sock_sendto(b, b"two", a.getsockname())
            assert await loop.sock_recvfrom_into(a, buffer) == (3, b.getsockname())
            assert buffer[:3] == b"two"

    run(main())


def full_listener():
    """A listening socket that answers no further SYN, and the sockets that fill its queue."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(3):
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(listener.getsockname())
        fillers.append(sock)
    return listener, fillers


def test_g03_happy_eyeballs(run, monkeypatch):
    """The second address is tried while the first has not answered; all_errors tells of each (3.12)."""
    async def main():
        loop = asyncio.get_running_loop()
        silent, fillers = full_listener()
        alive = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        refused = socket.socket()
        refused.bind(("127.0.0.1", 0))  # nobody listens
        answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", sock.getsockname())
                   for sock in (silent, alive.sockets[0])]

        async def getaddrinfo(*args, **kwargs):
            return answers

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        async with asyncio.timeout(TIMEOUT):
            transport, _ = await loop.create_connection(
                asyncio.Protocol, "name.invalid", 80, happy_eyeballs_delay=0.01)
        assert transport.get_extra_info("peername") == alive.sockets[0].getsockname()
        transport.close()
        if sys.version_info >= (3, 12):
            answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", refused.getsockname())] * 2
            with pytest.raises(ExceptionGroup) as caught:
                await loop.create_connection(asyncio.Protocol, "name.invalid", 80, all_errors=True)
            assert [error.errno for error in caught.value.exceptions] == [errno.ECONNREFUSED] * 2
        alive.close()
        await alive.wait_closed()
        for sock in (silent, refused, *fillers):
            sock.close()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12, 1), reason="asyncio has it from 3.12.1 on")
def test_g04_server_close_clients(run):
    """wait_closed() waits for the clients; close_clients() and abort_clients() end them (3.13)."""
    async def end(name):
        loop = asyncio.get_running_loop()
        made = loop.create_future()

        class Accepted(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.set_result(self)

        server = await loop.create_server(Accepted, "127.0.0.1", 0)
        client, client_protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        accepted = await made
        server.close()
        waiting = asyncio.ensure_future(server.wait_closed())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done() and not accepted.transport.is_closing()
        if name is None:
            client.close()
        else:
            getattr(server, name)()
        await asyncio.wait_for(waiting, TIMEOUT)
        await asyncio.wait_for(client_protocol.lost, TIMEOUT)

    run(end(None))
    if sys.version_info >= (3, 13):
        run(end("close_clients"))
        run(end("abort_clients"))


def test_g05_remove_reader_answers(run):
    """remove_reader() and remove_writer() say whether there was one."""
    async def main():
        loop = asyncio.get_running_loop()
        with sockets() as (a, _):
            assert loop.remove_reader(a) is False and loop.remove_writer(a) is False
            loop.add_reader(a, print)
            assert loop.remove_writer(a) is False
            assert loop.remove_reader(a) is True and loop.remove_reader(a) is False
            loop.add_writer(a, print)
            assert loop.remove_writer(a) is True and loop.remove_writer(a) is False

    run(main())


def test_g06_types_are_asyncios(run, tmp_path, contexts):
    """Transports, handles, servers and sockets satisfy isinstance() with asyncio's classes."""
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.BaseEventLoop)
        assert isinstance(loop.call_soon(int), asyncio.Handle)
        assert isinstance(loop.call_later(0, int), asyncio.TimerHandle)
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        assert isinstance(server, asyncio.AbstractServer)
        transport, _ = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        assert isinstance(transport, asyncio.Transport) and transport.is_closing() is False
        for sock in (transport.get_extra_info("socket"), server.sockets[0]):
            assert isinstance(sock, asyncio.trsock.TransportSocket)
        transport.close()
        assert transport.is_closing() is True
        server.close()
        read, write = os.pipe()
        with open(read, "rb") as reader, open(write, "wb") as writer:
            pipe_in, _ = await loop.connect_read_pipe(asyncio.Protocol, reader)
            pipe_out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, writer)
            assert isinstance(pipe_in, asyncio.ReadTransport)
            assert isinstance(pipe_out, asyncio.WriteTransport)
            pipe_in.close()
            pipe_out.close()
            await asyncio.sleep(0)
        udp, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
        assert isinstance(udp, asyncio.DatagramTransport)
        udp.close()
        process, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "true")
        assert isinstance(process, asyncio.SubprocessTransport)
        await process._wait()
        process.close()
        await asyncio.sleep(0.01)

    run(main())


def test_g07_timers_are_never_early(run):
    """Deadlines keep their nanoseconds: fractions of a millisecond are waited for, and in order."""
    async def main():
        loop = asyncio.get_running_loop()
        early, order, done = [], [], loop.create_future()

        def fire(index, when):
            if loop.time() < when:
                early.append(when - loop.time())
            order.append(index)
            if len(order) == 200:
                done.set_result(None)

        start = loop.time() + 0.005
        for index in reversed(range(200)):
            when = start + index * 0.0000371
            assert loop.call_at(when, fire, index, when).when() == when
        await done
        assert early == [] and order == list(range(200))
        before = time.monotonic()
        await asyncio.sleep(0.0004)
        assert time.monotonic() - before >= 0.0004

    run(main())


def test_g08_write_after_close(run, caplog):
    """It is dropped, and logged from the fifth time on; nothing is raised."""
    async def main():
        loop = asyncio.get_running_loop()
        with sockets() as (a, b):
            transport, protocol = await loop.create_connection(Recorder, sock=a)
            transport.abort()
            await protocol.lost
            for _ in range(10):
                transport.write(b"late")
            transport.writelines([b"late"])
            transport.close()
            transport.abort()
            assert await loop.sock_recv(b, 100) == b""
        assert any("socket.send() raised exception" in message for message in caplog.messages)

    run(main())


def test_g09_datagrams_unix_path(run, tmp_path, monkeypatch):
    """AF_UNIX by path, zero-length datagrams (3.13), names resolved for UDP, flow control."""
    monkeypatch.chdir(tmp_path)

    async def main():
        loop = asyncio.get_running_loop()
        server, received = await loop.create_datagram_endpoint(
            Datagrams, local_addr="server.sock", family=socket.AF_UNIX)
        client, protocol = await loop.create_datagram_endpoint(
            Datagrams, local_addr="client.sock", remote_addr="server.sock", family=socket.AF_UNIX)
        client.sendto(b"by path")
        assert await asyncio.wait_for(received.got.get(), TIMEOUT) == (b"by path", "client.sock")
        if sys.version_info >= (3, 13):
            client.sendto(b"")
            assert await asyncio.wait_for(received.got.get(), TIMEOUT) == (b"", "client.sock")
        # The server cannot read in between: what its queue does not take waits here, and pauses the protocol.
        sent = 0
        while "pause" not in protocol.flow:
            client.sendto(b"x" * 10_000)
            sent += 1
        assert client.get_write_buffer_size() > 0
        for _ in range(sent):
            data, _ = await asyncio.wait_for(received.got.get(), TIMEOUT)
            assert len(data) == 10_000
        assert protocol.flow == ["pause", "resume"]
        client.close()
        server.close()
        await asyncio.sleep(0)

    run(main())


def test_g10_subprocess_arguments_and_threads(backend, run, tmp_path):
    """umask, process_group, pipesize and their kind reach Popen; any thread's loop may spawn."""
    options = {"umask": 0o77, "start_new_session": True, "cwd": tmp_path, "env": {"PATH": os.environ["PATH"]},
               "pipesize": 65536, "restore_signals": True, "close_fds": True, "group": os.getgid(),
               "user": os.getuid(), "process_group": None, "pass_fds": ()}
    if os.getuid() == 0:
        options["extra_groups"] = [0]

    async def spawn():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import os; print(oct(os.umask(0)), os.getsid(0) == os.getpid(), os.getcwd())",
            stdout=subprocess.PIPE, **options)
        popen = process._transport.get_extra_info("subprocess")
        assert isinstance(popen, subprocess.Popen) and popen.pid == process.pid
        out, _ = await asyncio.wait_for(process.communicate(), TIMEOUT)
        assert out.decode().split() == ["0o77", "True", str(tmp_path)]
        assert process.returncode == 0

    run(spawn())
    failures = []

    def in_thread():
        try:
            pyloop.run(spawn(), backend=backend)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=in_thread) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_g11_idle_tls_connections_are_small(run, contexts):
    """No 256 KiB read buffer for each of them; the low-water mark is a quarter of the high one."""
    count = 50  # both ends are here: twice as many TLS protocols

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=contexts[0])
        address = server.sockets[0].getsockname()

        async def connect():
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *address, ssl=contexts[1], server_hostname="localhost")
            return transport

        clients = [await connect() for _ in range(10)]
        gc.collect()
        tracemalloc.start()
        try:
            clients += [await connect() for _ in range(count)]
            gc.collect()
            each = tracemalloc.get_traced_memory()[0] / (2 * count)
        finally:
            tracemalloc.stop()
        assert each < 32 * 1024, f"{each:.0f} bytes"
        low, high = clients[0]._ssl_protocol._transport.get_write_buffer_limits()
        assert low == high // 4
        for client in clients:
            client.abort()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)

    run(main())


def test_g12_create_task_keywords_and_thread_safe_handle(loop):
    """create_task() takes every keyword of Task; a handle cancelled from a thread does not run."""
    async def main():
        task = loop.create_task(asyncio.sleep(0, "value"), name="named", eager_start=True)
        assert task.get_name() == "named" and await task == "value"
        seen = []
        loop.set_task_factory(lambda loop, coro, **kwargs: seen.append(kwargs) or asyncio.Task(coro, loop=loop))
        await loop.create_task(asyncio.sleep(0), name="factory's")
        loop.set_task_factory(None)
        assert seen == ([{"name": "factory's"}] if sys.version_info >= (3, 14) else [{}])

    loop.run_until_complete(main())
    ran, cancelled = [], threading.Event()

    def cancel():
        handle = loop.call_soon_threadsafe(ran.append, "no")
        handle.cancel()
        assert handle.cancelled()
        cancelled.set()

    async def wait():
        await loop.run_in_executor(None, cancel)

    # Between the call and its cancellation the loop may run it, unless it is busy: so be busy.
    thread = threading.Thread(target=cancel)
    loop.call_soon(lambda: (thread.start(), cancelled.wait(TIMEOUT)))
    loop.call_soon(loop.stop)
    loop.run_forever()
    thread.join()
    loop.run_until_complete(asyncio.sleep(0))
    assert ran == [] and cancelled.is_set()


def test_g13_debug_mode_and_async_generators(new_loop):
    """Async generators abandoned half-way, in debug mode: each is finalised, nothing crashes."""
    loop = new_loop()
    loop.set_debug(True)
    closed = []

    async def numbers(index):
        try:
            for number in range(10):
                yield number
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            closed.append(index)

    async def main():
        kept = []
        for index in range(50):
            generator = numbers(index)
            async for number in generator:
                if number == index % 3:
                    break
            if index % 2:
                kept.append(generator)
        del generator
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sorted(closed) == list(range(0, 50, 2))
        return kept

    kept = loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert sorted(closed) == list(range(50)) and len(kept) == 25


@pytest.mark.parametrize("host", [
    "127.0.0.1", "::1", "fe80::1%lo", "fe80::1%1", "::ffff:127.0.0.1", "0.0.0.0", "::", None, "", "127.1", b"127.0.0.1",
    "1.2.3.4.5", "300.1.1.1", "fe80::1%nowhere", "::1%", "localhost"])
def test_g14_scoped_literals(run, host):
    """getaddrinfo() answers as socket.getaddrinfo() does; literals need no thread."""
    async def main():
        loop = asyncio.get_running_loop()
        for port in (0, 80, "80", None, "http", b"443", 70000):
            for family in (0, socket.AF_INET, socket.AF_INET6):
                for flags in (0, socket.AI_PASSIVE, socket.AI_CANONNAME, socket.AI_NUMERICHOST):
                    arguments = {"family": family, "type": socket.SOCK_STREAM, "flags": flags}
                    if host == "1.2.3.4.5" or host == "300.1.1.1":
                        arguments["flags"] |= socket.AI_NUMERICHOST  # no name server is asked
                    try:
                        expected = socket.getaddrinfo(host, port, **arguments)
                    except Exception as error:
                        with pytest.raises(type(error)) as caught:
                            await loop.getaddrinfo(host, port, **arguments)
                        assert caught.value.args == error.args
                    else:
                        assert await loop.getaddrinfo(host, port, **arguments) == expected

    run(main())


def test_g15_sockets_on_io_uring(loop, backend):
    """Network I/O through the ring: the kernel is entered once for reading many sockets and waiting."""
    loop.run_until_complete(asyncio.sleep(0))
    kinds = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            kinds.add(os.readlink(f"/proc/self/fd/{name}"))
    assert ("anon_inode:[io_uring]" in kinds) == (backend == "io_uring")
    assert ("anon_inode:[eventpoll]" in kinds) == (backend == "epoll")
    assert loop.backend == backend


def test_g16_connect_accepted_socket_with_tls(run, contexts):
    """It returns the application's protocol, not the TLS protocol."""
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            connecting = asyncio.ensure_future(asyncio.open_connection(
                *listener.getsockname(), ssl=contexts[1], server_hostname="localhost"))
            accepted, _ = await loop.sock_accept(listener)
            transport, protocol = await loop.connect_accepted_socket(Recorder, accepted, ssl=contexts[0])
            assert isinstance(protocol, Recorder) and protocol.transport is transport
            _, writer = await connecting
            writer.write(b"hello")
            await protocol.until_received(5)
            writer.close()
            transport.close()
            await asyncio.wait_for(protocol.lost, TIMEOUT)
            await asyncio.wait_for(writer.wait_closed(), TIMEOUT)

    run(main())
