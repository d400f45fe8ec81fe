"""What the tests of bad input share: values of every wrong kind, and the comparison with asyncio's own loop."""

import asyncio
import gc
import socket


def closed_socket():
    sock = socket.socket()
    sock.close()
    return sock


class Unusable:
    """Has a fileno() that fails."""

    def fileno(self):
        raise RuntimeError("no fileno")


JUNK = {
    "None": lambda: None, "-1": lambda: -1, "1.5": lambda: 1.5, "nan": lambda: float("nan"),
    "inf": lambda: float("inf"), "-inf": lambda: float("-inf"), "1e400": lambda: 10 ** 400,
    "-1e400": lambda: -10 ** 400,
    "text": lambda: "text", "bytes": lambda: b"bytes", "surrogate": lambda: "\udc80", "nul": lambda: "a\0b",
    "object": object, "list": list, "dict": dict, "type": lambda: int, "tuple": lambda: (1, 2, 3),
    "closed socket": closed_socket, "stream socket": lambda: resources.ready(), "Unusable": Unusable,
    "coroutine function": lambda: asyncio.sleep,
}


class Resources:
    """What the good arguments are made of; all closed after each call."""

    def __init__(self):
        self.opened = []

    def keep(self, *things):
        self.opened.extend(things)
        return things

    def pair(self):
        pair = self.keep(*socket.socketpair())
        for sock in pair:
            sock.setblocking(False)
        return pair

    def ready(self):
        """A socket with something to read."""
        a, b = self.pair()
        b.send(b"data")
        return a

    def datagram(self):
        sock, = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"data", sock.getsockname())
        return sock

    def address(self):
        """Where nobody listens."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        sock.close()
        return address

    def close(self):
        for thing in self.opened:
            thing.close()
        self.opened.clear()


resources = Resources()


def differences(good_arguments, method, make_stock, make_ours, call, different):
    """Every argument of the method replaced by everything; where the two do not agree, as text.

    `different` has the exceptions: (method, position, name) to (ours, asyncio's).
    """
    for position in range(len(good_arguments)):
        for name, junk in JUNK.items():
            found = []
            for make in (make_stock, make_ours):
                arguments = [junk() if index == position else good() for index, good in enumerate(good_arguments)]
                found.append(call(make(), method, arguments))
                resources.close()
            stock, ours = found
            agreed = different.get((method, position, name))
            if stock != ours and (ours[0], stock[0]) != agreed:
                yield f"{method}, argument {position} = {name}: asyncio {found[0]}, pyloop {found[1]}"
    gc.collect()  # stock transports that failed half-way complain: here, and not in the tests to come


def transport_outcome(subject, method, arguments):
    loop, transport = subject.loop, subject.transport
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(type(context.get("exception"))))
    try:
        getattr(transport, method)(*arguments)
        found = "returns"
    except BaseException as error:
        found = type(error)
    loop.run_until_complete(asyncio.sleep(0))
    state = transport.is_closing()
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return found, reports, state
