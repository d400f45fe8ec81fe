"""add_reader(), add_writer() and their likes."""

import array
import asyncio
import contextvars
import fcntl
import gc
import os
import socket
import struct
import tempfile
import termios
import threading
import weakref

import pytest


def turn(loop, count=3):
    for _ in range(count):
        loop.stop()
        loop.run_forever()


def unread(sock):
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]


def test_reader_is_level_triggered(loop, pair):
    a, b = pair
    got = []
    loop.add_reader(a, lambda: got.append(a.recv(1)))
    turn(loop)
    assert got == []
    b.send(b"xyz")
    turn(loop, 4)
    assert got == [b"x", b"y", b"z"]
    assert loop.remove_reader(a) is True
    assert loop.remove_reader(a) is False
    b.send(b"more")
    turn(loop)
    assert len(got) == 3 and unread(a) == 4


def test_writer(loop, pair):
    a, b = pair
    count = 0

    def writable():
        nonlocal count
        count += 1
        if count == 3:
            assert loop.remove_writer(a.fileno()) is True

    loop.add_writer(a.fileno(), writable)
    turn(loop, 6)
    assert count == 3
    assert loop.remove_writer(a.fileno()) is False


def test_reader_and_writer_of_one_descriptor(loop, pair):
    a, b = pair
    seen = []

    def writable():
        seen.append("w")
        loop.remove_writer(a)

    loop.add_reader(a, lambda: seen.append(a.recv(10)))
    loop.add_writer(a, writable)
    turn(loop)
    assert seen == ["w"]
    b.send(b"x")
    turn(loop)
    assert seen == ["w", b"x"]
    loop.add_writer(a, writable)
    loop.remove_reader(a)
    b.send(b"y")
    turn(loop)
    assert seen == ["w", b"x", "w"]


def test_second_reader_replaces_the_first(loop, pair):
    a, b = pair
    seen = []
    first = loop._add_reader(a, seen.append, 1)
    loop.add_reader(a, seen.append, 2)
    assert first.cancelled()
    b.send(b"x")
    turn(loop, 2)
    assert set(seen) == {2}
    loop.remove_reader(a)


def test_context_of_a_reader(loop, pair):
    """asyncio's own transports give theirs from 3.15 on."""
    a, b = pair
    variable = contextvars.ContextVar("variable", default="outside")
    context = contextvars.copy_context()
    context.run(variable.set, "inside")
    seen = []

    def ready():
        seen.append(variable.get())

    loop._add_writer(a, ready, context=context)
    b.send(b"x")
    loop._add_reader(a, ready, context=None)
    turn(loop)
    assert sorted(set(seen)) == ["inside", "outside"]
    loop.remove_reader(a)
    loop.remove_writer(a)
    with pytest.raises(TypeError, match="unexpected keyword"):
        loop._add_reader(a, ready, contxt=context)


def test_cancelled_handle_ends_the_watch(loop, pair):
    a, b = pair
    handle = loop._add_reader(a, pytest.fail)
    handle.cancel()
    b.send(b"x")
    turn(loop)
    assert loop.remove_reader(a) is False


def test_remove_in_the_same_turn_as_the_event(loop):
    pairs = [socket.socketpair() for _ in range(2)]
    ran = []

    def readable(index):
        ran.append(index)
        loop.remove_reader(pairs[1 - index][0])
        loop.remove_reader(pairs[index][0])

    for index, (a, b) in enumerate(pairs):
        loop.add_reader(a, readable, index)
        b.send(b"x")
    turn(loop)
    assert len(ran) == 1
    for a, b in pairs:
        a.close()
        b.close()


def test_file_closed_under_its_registration(loop, pair):
    """It has no number any more, and is found all the same, as by selectors (anyio closes first)."""
    a, b = pair
    loop.add_reader(a, pytest.fail)
    loop.add_writer(a, lambda: None)
    a.close()
    assert loop.remove_reader(a) is True
    assert loop.remove_reader(a) is False
    assert loop.remove_writer(a) is True
    loop.add_reader(b.fileno(), pytest.fail)
    b.close()
    for closed in pair:
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            loop.remove_reader(closed)
    turn(loop)


def test_file_lives_while_it_is_registered(loop):
    a, b = socket.socketpair()
    ref = weakref.ref(a)
    number = a.fileno()
    loop.add_reader(a, pytest.fail)
    del a
    gc.collect()
    assert ref() is not None
    loop.remove_reader(number)
    turn(loop)
    assert ref() is None
    b.close()


def test_descriptor_closed_right_after_removal_and_reused(loop):
    for _ in range(50):
        a, b = socket.socketpair()
        number = a.fileno()
        loop.add_reader(a, pytest.fail)
        turn(loop, 1)
        loop.remove_reader(a)
        a.close()
        b.close()
        c, d = socket.socketpair()
        assert number in (c.fileno(), d.fileno())
        got = []
        loop.add_reader(c, lambda: got.append(c.recv(10)))
        d.send(b"x")
        turn(loop)
        assert got == [b"x"]
        loop.remove_reader(c)
        c.close()
        d.close()


def test_descriptor_closed_under_its_reader(loop):
    a, b = socket.socketpair()
    number = a.fileno()
    loop.add_reader(number, lambda: None)
    turn(loop, 1)
    a.close()
    b.close()
    turn(loop)
    c, d = socket.socketpair()
    other = c if c.fileno() == number else d
    got = []
    loop.add_reader(other, lambda: got.append(other.recv(10)))
    (d if other is c else c).send(b"x")
    turn(loop)
    assert got == [b"x"]
    loop.remove_reader(other)
    c.close()
    d.close()


def test_peer_closes(loop, pair):
    a, b = pair
    got = []

    def readable():
        got.append(a.recv(10))
        loop.remove_reader(a)

    loop.add_reader(a, readable)
    b.close()
    turn(loop)
    assert got == [b""]


def test_reset_is_readable_and_writable(loop):
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    seen = set()
    loop.add_reader(client, seen.add, "r")
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    turn(loop)
    assert seen == {"r"}
    loop.remove_reader(client)
    loop.add_writer(client, seen.add, "w")
    turn(loop)
    assert seen == {"r", "w"}
    loop.remove_writer(client)
    client.close()
    listener.close()


def test_bad_descriptors(loop):
    for method in (loop.add_reader, loop.add_writer):
        with pytest.raises(ValueError, match="Invalid file object: 'x'"):
            method("x", print)
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            method(-1, print)
    for method in (loop.remove_reader, loop.remove_writer):
        with pytest.raises(ValueError, match="Invalid file object: 'x'"):
            method("x")
        assert method(987654) is False
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(OSError):
        loop.add_reader(read, print)
    with tempfile.TemporaryFile() as file:
        with pytest.raises(PermissionError):
            loop.add_reader(file, print)


def test_large_numbers(loop, pair):
    a, b = pair
    number = 900
    os.dup2(a.fileno(), number)
    got = []
    loop.add_reader(number, lambda: got.append(os.read(number, 10)))
    b.send(b"x")
    turn(loop)
    assert got == [b"x"]
    loop.remove_reader(number)
    os.close(number)


def test_callback_that_fails_goes_on(loop, pair, reports):
    a, b = pair
    loop.add_reader(a, lambda: 1 / 0)
    b.send(b"x")
    turn(loop, 2)
    assert len(reports) >= 2
    reports.clear()
    loop.remove_reader(a)


def test_callback_is_released(loop, pair):
    class Callback:
        def __call__(self):
            pass

    callback = Callback()
    ref = weakref.ref(callback)
    loop.add_reader(pair[0], callback)
    turn(loop)
    del callback
    loop.remove_reader(pair[0])
    gc.collect()
    assert ref() is None


def test_other_thread_is_refused(loop, pair):
    errors = []

    def work():
        for call in (lambda: loop.add_reader(pair[0], print), lambda: loop.add_writer(pair[0], print)):
            try:
                call()
            except RuntimeError as error:
                errors.append(error)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert len(errors) == 2


def test_descriptor_of_a_transport_is_refused(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=pair[0])
        fd = transport.get_extra_info("socket").fileno()
        text = f"File descriptor {fd} is used by transport"
        with pytest.raises(RuntimeError, match=text):
            loop.add_reader(fd, print)
        with pytest.raises(RuntimeError, match=text):
            loop.add_writer(fd, print)
        with pytest.raises(RuntimeError, match=text):
            loop.remove_reader(fd)
        with pytest.raises(RuntimeError, match=text):
            loop.remove_writer(fd)
        transport.close()
        await asyncio.sleep(0.01)

    run(main())


def test_many_descriptors(loop):
    pairs = [socket.socketpair() for _ in range(200)]
    got = set()
    for index, (a, b) in enumerate(pairs):
        loop.add_reader(a, lambda a=a, index=index: (a.recv(10), got.add(index)))
    for index, (a, b) in enumerate(pairs):
        b.send(b"x")
    turn(loop)
    assert got == set(range(200))
    for a, b in pairs:
        assert loop.remove_reader(a)
        a.close()
        b.close()


def test_fairness_of_a_busy_reader_and_call_soon(loop, pair):
    """A descriptor that is always ready starves nobody."""
    a, b = pair
    b.send(b"x")
    loop.add_reader(a, lambda: None)
    left = 50

    def again():
        nonlocal left
        left -= 1
        loop.call_soon(again if left else loop.stop)

    loop.call_soon(again)
    loop.run_forever()
    loop.remove_reader(a)
    assert left == 0


def test_repr_of_asyncios_own_transports(run):
    """They look into loop._selector."""
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        assert "read=polling" in repr(transport) and "write=<idle" in repr(transport)
        read, write = os.pipe()
        reading, _ = await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(read, "rb", 0))
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write, "wb", 0))
        await asyncio.sleep(0)
        assert "polling" in repr(reading) and "idle" in repr(writing)
        for each in (transport, reading, writing):
            each.close()
        await asyncio.sleep(0.01)

    run(main())
