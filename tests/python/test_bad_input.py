"""Wrong values in every argument of every public method: the answer is that of asyncio's own loop.

Each case is a good call with one argument replaced. It is made on a loop of ours and on a stock one; the type of
exception and what the exception handler gets must be the same, and ours must still work afterwards.
"""

import asyncio
import inspect
import signal
import socket

import pytest

from bad_input_kit import closed_socket, differences, resources, transport_outcome
import pyloop


pair, ready, datagram = (lambda: resources.pair()[0]), resources.ready, resources.datagram

# Method: makers of good arguments, by position or by name.
CALLS = {
    "call_soon": [lambda: int, lambda: "5"],
    "call_soon_threadsafe": [lambda: int],
    "call_later": [lambda: 0, lambda: int],
    "call_at": [lambda: 0, lambda: int],
    "create_task": [lambda: asyncio.sleep(0)],
    "set_task_factory": [lambda: None],
    "set_exception_handler": [lambda: None],
    "call_exception_handler": [lambda: {"message": "x"}],
    "set_debug": [lambda: False],
    "run_in_executor": [lambda: None, lambda: int],
    "set_default_executor": [lambda: None],
    "run_until_complete": [lambda: asyncio.sleep(0)],
    "add_reader": [pair, lambda: int],
    "add_writer": [pair, lambda: int],
    "remove_reader": [pair],
    "remove_writer": [pair],
    "add_signal_handler": [lambda: signal.SIGUSR1, lambda: int],
    "remove_signal_handler": [lambda: signal.SIGUSR1],
    "sock_recv": [ready, lambda: 10],
    "sock_recv_into": [ready, lambda: bytearray(10)],
    "sock_recvfrom": [datagram, lambda: 10],
    "sock_recvfrom_into": [datagram, lambda: bytearray(10), lambda: 5],
    "sock_sendall": [pair, lambda: b"data"],
    "sock_sendto": [datagram, lambda: b"data", lambda: datagram().getsockname()],
    "sock_connect": [lambda: socket_for_connect(), resources.address],
    "sock_accept": [closed_socket],
    "getaddrinfo": [lambda: "127.0.0.1", lambda: 80],
    "getnameinfo": [lambda: ("127.0.0.1", 80), lambda: socket.NI_NUMERICHOST | socket.NI_NUMERICSERV],
    "connect_accepted_socket": [lambda: asyncio.Protocol, closed_socket],
    "create_connection": [lambda: asyncio.Protocol, lambda: "127.0.0.1", lambda: resources.address()[1]],
    "create_server": [lambda: asyncio.Protocol, lambda: "127.0.0.1", lambda: 0],
    "create_unix_connection": [lambda: asyncio.Protocol, lambda: "/nonexistent/path"],
    "create_unix_server": [lambda: asyncio.Protocol, lambda: "/nonexistent/path"],
    "create_datagram_endpoint": [lambda: asyncio.DatagramProtocol, lambda: ("127.0.0.1", 0), lambda: None],
    "connect_read_pipe": [lambda: asyncio.Protocol, pair],
    "connect_write_pipe": [lambda: asyncio.BaseProtocol, pair],
    "subprocess_exec": [lambda: asyncio.SubprocessProtocol, lambda: "/nonexistent/program"],
    "sendfile": [lambda: None, lambda: None],
    "start_tls": [lambda: None, lambda: None, lambda: None],
}

TRANSPORT_CALLS = {
    "write": [lambda: b"data"], "writelines": [lambda: [b"data"]], "set_write_buffer_limits": [lambda: 10, lambda: 5],
    "get_extra_info": [lambda: "socket", lambda: None],
}


def socket_for_connect():
    sock, = resources.keep(socket.socket())
    sock.setblocking(False)
    return sock


async def settled(awaitable):
    """What became of it within a second; what it made is closed again."""
    try:
        result = await asyncio.wait_for(awaitable, 1)
    except (asyncio.TimeoutError, TimeoutError):
        return "waits"
    for thing in result if isinstance(result, tuple) else (result,):
        if isinstance(thing, (asyncio.BaseTransport, asyncio.AbstractServer)):
            thing.close()
    await asyncio.sleep(0)
    return "returns"


def outcome(loop, method, arguments):
    """The type of exception, or "returns"; and what the exception handler got."""
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(type(context.get("exception"))))
    try:
        result = getattr(loop, method)(*arguments)
        if isinstance(result, asyncio.Handle):
            loop.run_until_complete(asyncio.sleep(0))
            result.cancel()
        found = "returns"
        if method != "run_until_complete" and (inspect.iscoroutine(result) or asyncio.isfuture(result)):
            found = loop.run_until_complete(settled(result))
    except BaseException as error:
        found = type(error)
    if method in ("set_task_factory", "set_default_executor"):
        loop.set_task_factory(None)
        loop._default_executor = None
    loop.set_exception_handler(None)
    loop.set_debug(False)
    if method == "add_signal_handler":
        loop.remove_signal_handler(signal.SIGUSR1)
    for argument in arguments:
        if inspect.iscoroutine(argument):
            argument.close()
    return found, reports


# Where the answer is another one on purpose.
DIFFERENT = {
    # Stock asyncio accepts it, and its heap of timers is out of order from then on.
    ("call_later", 0, "nan"): (ValueError, "returns"),
    ("call_at", 0, "nan"): (ValueError, "returns"),
    # No float: 10 ** 392 years. The heap's keys are nanoseconds.
    ("call_at", 0, "1e400"): (OverflowError, "returns"),
    ("call_at", 0, "-1e400"): (OverflowError, "returns"),
    ("remove_reader", 0, "1e400"): (OverflowError, "returns"),
    ("remove_writer", 0, "1e400"): (OverflowError, "returns"),
    # From 3.12 on asyncio takes anything that is false for an empty list.
    ("writelines", 0, "None"): (TypeError, "returns"),
    # An object that is no socket: accept() is looked for before fileno().
    ("sock_accept", 0, "Unusable"): (AttributeError, RuntimeError),
}


def loop_outcome(loop, method, arguments):
    """The outcome, on a loop of its own: stock asyncio's is of no use after some of these."""
    try:
        found = outcome(loop, method, arguments)
        if isinstance(loop, pyloop.Loop):
            assert loop.run_until_complete(asyncio.sleep(0, "still works")) == "still works"
    finally:
        loop.close()
    return found


@pytest.fixture(autouse=True)
def no_name_server(monkeypatch):
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, family=0, type=0, proto=0, flags=0: look_up(
        host, port, family, type, proto, flags | socket.AI_NUMERICHOST))


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning",
                            "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", CALLS)
def test_methods_of_the_loop(backend, method):
    assert list(differences(CALLS[method], method, asyncio.SelectorEventLoop,
                            lambda: pyloop.Loop(backend=backend), loop_outcome, DIFFERENT)) == []


class OnTransport:
    """A connected transport on a loop of its own."""

    def __init__(self, loop):
        self.loop = loop
        self.transport, _ = loop.run_until_complete(
            loop.create_connection(asyncio.Protocol, sock=resources.pair()[0]))


@pytest.mark.parametrize("method", TRANSPORT_CALLS)
def test_methods_of_a_transport(backend, method):
    assert list(differences(TRANSPORT_CALLS[method], method, lambda: OnTransport(asyncio.SelectorEventLoop()),
                            lambda: OnTransport(pyloop.Loop(backend=backend)), transport_outcome, DIFFERENT)) == []
