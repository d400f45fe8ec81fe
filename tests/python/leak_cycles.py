"""Makes, uses and closes a loop again and again; prints what a quarter of that left behind.

See test_leaks.py.

    python leak_cycles.py SCENARIO CYCLES
"""

import asyncio
import functools
import json
import logging
import os
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import warnings

import httpkit
import parallel_kit
import pyloop
import tls_kit

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "soak"))
import usage  # noqa: E402


WINDOWS = 4
# More than a freelist of 512 can fill: then the smallest is below what test_leaks.py calls a leak.
MORE_WINDOWS = {"native_streams": 8}


async def echo(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()


async def exchange(reader, writer):
    writer.write(b"x" * 3000)
    writer.write_eof()
    assert await reader.read() == b"x" * 3000
    writer.close()
    await writer.wait_closed()


def nothing(loop):
    loop.run_until_complete(asyncio.sleep(0))


def never_run(loop):
    loop.call_soon(print)
    loop.call_later(1000, print)


def callbacks(loop):
    async def main():
        done = loop.create_future()
        loop.call_soon(lambda: None)
        for delay in (0.0, 0.001, 50, 60):
            loop.call_later(delay, int)
        for delay in range(10, 30):
            loop.call_later(delay, print).cancel()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(done.set_result, None))
        thread.start()
        await done
        thread.join()
    loop.run_until_complete(main())


def failing(loop):
    loop.set_exception_handler(lambda *_: None)

    async def raising():
        raise ValueError("on purpose")

    async def main():
        loop.call_soon(lambda: 1 / 0)
        task = asyncio.create_task(raising())  # its exception is never looked at
        await asyncio.sleep(0)
        del task
        loop.create_future().set_exception(ValueError("on purpose"))
        await asyncio.gather(raising(), raising(), return_exceptions=True)
    loop.run_until_complete(main())


def tasks(loop):
    async def main():
        async def wait_long():
            await asyncio.sleep(1000)
        waiting = [asyncio.create_task(wait_long()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting[:4]:
            task.cancel()
        await asyncio.gather(*waiting[:4], return_exceptions=True)
        try:
            async with asyncio.timeout(0):
                await wait_long()
        except TimeoutError:
            pass
        event = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(event.wait())
            group.create_task(asyncio.sleep(0))
            event.set()
        waiting[4].cancel()  # and is left to the loop
    loop.run_until_complete(main())


def tcp(loop):
    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await asyncio.gather(*[exchange(*await asyncio.open_connection(*address)) for _ in range(3)])
        server.close()
        await server.wait_closed()
    loop.run_until_complete(main())


def tcp_unclosed(loop):
    """Everything is left open: the loop's close() has to clean up."""
    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 300_000)
        await reader.readexactly(1)
        return server, reader, writer  # alive when the loop is closed
    loop.run_until_complete(main())


def native_streams(loop):
    async def serve(reader, writer):
        async for line in reader:
            writer.write(line)
            await writer.drain()
        writer.close()

    async def main():
        server = await pyloop.start_server(serve, "127.0.0.1", 0)
        reader, writer = await pyloop.open_connection(*server.sockets[0].getsockname())
        writer.write(b"a line\n" * 200)
        for _ in range(200):
            await reader.readline()
        try:
            await asyncio.wait_for(reader.readexactly(10), 0.001)
        except TimeoutError:
            pass
        waiting = asyncio.create_task(reader.read(10))
        writer.write_eof()
        assert await waiting == b""
        writer.close()
        await writer.wait_closed()
        left = pyloop.StreamReader()
        left.feed_data(b"never read")
        server.close()
    loop.run_until_complete(main())


def tcp_aborted(loop):
    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 2_000_000)
        writer.transport.abort()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass
        server.close()
        try:
            await asyncio.open_connection(*server.sockets[0].getsockname() if server.sockets else
                                          ("127.0.0.1", 1))
        except OSError:
            pass
    loop.run_until_complete(main())


def unix(loop):
    async def main(path):
        server = await asyncio.start_unix_server(echo, path)
        await exchange(*await asyncio.open_unix_connection(path))
        server.close()
        await server.wait_closed()
    with tempfile.TemporaryDirectory() as folder:
        loop.run_until_complete(main(folder + "/s"))


class Counter(asyncio.DatagramProtocol, asyncio.Protocol):
    """Ends when so many messages or bytes have come."""

    def __init__(self, loop, wanted):
        self.wanted, self.count = wanted, 0
        self.done, self.lost = loop.create_future(), loop.create_future()

    def _count(self, number):
        self.count += number
        if self.count >= self.wanted and not self.done.done():
            self.done.set_result(None)

    def datagram_received(self, data, address):
        self._count(1)

    def data_received(self, data):
        self._count(len(data))

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def send_datagrams(loop, wanted):
    counter = Counter(loop, wanted)
    receiver, _ = await loop.create_datagram_endpoint(lambda: counter, ("127.0.0.1", 0))
    name = receiver.get_extra_info("sockname")
    sender, _ = await loop.create_datagram_endpoint(lambda: Counter(loop, 1), remote_addr=name)
    for number in range(40):
        sender.sendto(b"%d" % number * 200)
        receiver.sendto(bytearray(700), sender.get_extra_info("sockname"))
    await counter.done
    return sender, receiver, counter


def datagrams(loop):
    async def main():
        sender, receiver, counter = await send_datagrams(loop, 40)
        sender.abort()
        receiver.close()
        await counter.lost
    loop.run_until_complete(main())


def datagrams_unclosed(loop):
    async def main():
        left = await send_datagrams(loop, 3)
        left[0].sendto(b"not sent in time")
        return left  # alive when the loop is closed
    loop.run_until_complete(main())


def pipes(loop):
    async def main():
        reading, writing = os.pipe()
        counter = Counter(loop, 100_000)
        await loop.connect_read_pipe(lambda: counter, open(reading, "rb", 0))
        writer, _ = await loop.connect_write_pipe(lambda: Counter(loop, 1), open(writing, "wb", 0))
        writer.write(b"x" * 100_000)
        await counter.done
        writer.close()
        await counter.lost
    loop.run_until_complete(main())


@functools.cache
def tls_contexts():
    with tempfile.TemporaryDirectory() as folder:
        return tls_kit.make_contexts(pathlib.Path(folder))


def tls(loop):
    server_context, client_context = tls_contexts()

    async def main():
        server = await asyncio.start_server(echo_record, "127.0.0.1", 0, ssl=server_context)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost")
        writer.write(b"x" * 3000)
        assert await reader.readexactly(3000) == b"x" * 3000
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
    loop.run_until_complete(main())


async def echo_record(reader, writer):
    """TLS has no end of its own for one direction."""
    writer.write(await reader.readexactly(3000))
    await reader.read()
    writer.close()


def sockets(loop):
    async def main():
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            listening.setblocking(False)
            with socket.socket() as client:
                client.setblocking(False)
                accepted, _ = await asyncio.gather(
                    loop.sock_accept(listening), loop.sock_connect(client, listening.getsockname()))
                connection = accepted[0]
                with connection:
                    await loop.sock_sendall(client, b"abc" * 1000)
                    assert await loop.sock_recv(connection, 3) == b"abc"
                    # One that is given up while it waits.
                    try:
                        await asyncio.wait_for(loop.sock_recv(client, 10), 0.001)
                    except TimeoutError:
                        pass
    loop.run_until_complete(main())


def readers(loop):
    async def main():
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            seen = asyncio.Event()
            loop.add_reader(left, seen.set)
            loop.add_writer(left, lambda: loop.remove_writer(left))
            right.send(b"x")
            await seen.wait()
            loop.remove_reader(left)
    loop.run_until_complete(main())


def executor(loop):
    async def main():
        assert await loop.run_in_executor(None, abs, -3) == 3
        await loop.getaddrinfo("127.0.0.1", 80)
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


def signals(loop):
    async def main():
        seen = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, seen.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await seen.wait()
        loop.remove_signal_handler(signal.SIGUSR1)
        loop.add_signal_handler(signal.SIGUSR2, seen.set)  # left to the loop
    loop.run_until_complete(main())


def subprocesses(loop):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate(b"through a pipe")
        assert output == b"through a pipe"
    loop.run_until_complete(main())


def generators(loop):
    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)

    async def main():
        async for _ in numbers():
            break
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())


def stolen_requests(_):
    async def app(scope, receive, send):
        if scope["path"] == "/echo":
            await httpkit.echo(scope, receive, send)
        elif scope["path"] == "/fail":
            raise ValueError("on purpose")
        else:
            receiving = asyncio.create_task(receive())
            await asyncio.sleep(0)
            receiving.cancel()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await receive()
            await receive()

    async def main():
        server = await parallel_kit.Stolen(app).__aenter__()
        client = await server.connect()
        assert (await client.fetch(httpkit.post(b"x" * 100_000, path="/echo"))).body == b"x" * 100_000
        await client.fetch(httpkit.get("/fail"))
        clients = [await server.connect() for _ in range(3)]
        for client in clients:
            client.write(httpkit.get("/wait"))
            await client.head()
        clients[0].abort()
        await httpkit.until(lambda: server.http.tasks == 2)
        assert server.http.cancel() == 2
        await httpkit.until(lambda: server.http.tasks == 0)
        client = await server.connect()
        client.write(httpkit.get("/wait"))
        await client.head()
        return server  # the last request is left to the loop
    with parallel_kit.parallel_runner(None) as (runner, _):
        runner.run(main())


SCENARIOS = {f.__name__: f for f in (
    nothing, never_run, callbacks, failing, tasks, tcp, tcp_unclosed, native_streams, tcp_aborted, unix, datagrams,
    datagrams_unclosed, pipes, tls, sockets, readers, executor, signals, subprocesses, generators,
    stolen_requests)}


def cycle(scenario):
    loop = pyloop.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        scenario(loop)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def grown(scenario, cycles):
    """What a window of cycles left behind, counted by name."""
    before = usage.take()
    for _ in range(cycles):
        cycle(scenario)
    after = usage.take()
    return {name: after[name] - before[name] for name in before}


def main():
    scenario, cycles = SCENARIOS[sys.argv[1]], int(sys.argv[2])
    warnings.simplefilter("ignore")  # what is left open on purpose warns
    logging.disable()
    sys.unraisablehook = lambda *_: None
    # Caches, freelists and the first of everything fill up before anything is counted (a freelist goes on
    # filling while collections find more dead instances than the last one); the tables of
    # the interpreter still grow now and then. A leak grows in every window, so the smallest counts.
    grown(scenario, cycles)
    windows = [grown(scenario, cycles // WINDOWS) for _ in range(MORE_WINDOWS.get(sys.argv[1], WINDOWS))]
    print(json.dumps({name: min(window[name] for window in windows) for name in windows[0]}))


if __name__ == "__main__":
    main()
