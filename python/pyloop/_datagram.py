"""asyncio's datagram transport over a C half, which moves the datagrams."""

import socket
import sys
from asyncio import futures, selector_events, transports

from ._core import DatagramCore

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
# What sendto() takes in place of an IPv4 address, and no resolver knows.
_NAMES = {"": "0.0.0.0", "<broadcast>": "255.255.255.255"}

# Before Python 3.12 asyncio's own is a Transport, but no DatagramTransport.
_bases = (selector_events._SelectorDatagramTransport, transports.DatagramTransport)


class DatagramTransport(DatagramCore, *_bases):
    """UDP and Unix datagrams."""

    def __init__(self, loop, sock, protocol, address=None, waiter=None, extra=None):
        selector_events._SelectorTransport.__init__(self, loop, sock, protocol, extra)
        self._address = address
        self._open(loop, self._sock_fd, sock.family, bool(self._extra["peername"]))
        # A close() of the user's own socket object must not close the descriptor under the loop.
        sock._io_refs += 1
        loop.call_soon(protocol.connection_made, self)
        # only start reading when connection_made() has been called
        loop.call_soon(self._start_reading)
        if waiter is not None:
            # only wake up the waiter when connection_made() has been called
            loop.call_soon(futures._set_result_unless_cancelled, waiter, None)

    def __repr__(self):
        state = " closed" if self._sock is None else " closing" if self._closing else ""
        reading = "polling" if self._is_reading else "idle"
        size = self.get_write_buffer_size()
        writing = "polling" if size else "idle"
        return (f"<{type(self).__name__}{state} fd={self._sock_fd} read={reading} "
                f"write=<{writing}, bufsize={size}>>")

    def _start_reading(self):
        if self.is_reading():
            self._read(True)

    def pause_reading(self):
        if self.is_reading():
            self._paused = True
            self._read(False)

    def resume_reading(self):
        if not self._closing and self._paused:
            self._paused = False
            self._read(True)

    def _set_write_buffer_limits(self, high=None, low=None):
        super()._set_write_buffer_limits(high, low)
        self._high_water_now = int(min(self._high_water, sys.maxsize))

    def close(self):
        if self._closing:
            return
        self._closing = True
        self._read(False)
        if not self.get_write_buffer_size():
            self._conn_lost += 1
            self._loop.call_soon(self._call_connection_lost, None)

    def _force_close(self, exc):
        if self._conn_lost:
            return
        self._closing = True
        self._read(False)
        self._drop()
        self._conn_lost += 1
        self._loop.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc):
        self._shut()
        self._sock._decref_socketios()
        super()._call_connection_lost(exc)

    def _sent(self):
        """The kernel took some of what it had refused."""
        self._maybe_resume_protocol()  # may send more
        if self._closing and not self._conn_lost and not self.get_write_buffer_size():
            self._conn_lost += 1
            self._call_connection_lost(None)

    def _sendto_slow(self, data, addr):
        """sendto() to an address that is more, or less, than numbers or a path."""
        try:
            if not self.get_write_buffer_size():
                try:
                    self._sock.sendto(data, addr)
                    return
                except (BlockingIOError, InterruptedError):
                    pass
            self._queue(data, self._resolve(addr))
        except OSError as exc:
            self._protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal write error on datagram transport")

    def _resolve(self, addr):
        """As the socket does it, which means that a resolver may block."""
        if self._sock.family == socket.AF_UNIX:
            return bytes(addr)
        host, port = addr[:2]
        if self._sock.family == socket.AF_INET:
            host = _NAMES.get(host, host)
        return socket.getaddrinfo(host, port, self._sock.family, socket.SOCK_DGRAM)[0][4]


class _OtherDatagramTransport(*_bases):
    """asyncio's own, put right."""

    def _sendto_ready(self):
        super()._sendto_ready()
        # 3.13 counts 8 bytes for each datagram that it queues and never takes them back: after some
        # thousands the protocol would stay paused for ever.
        if not self._buffer and self._buffer_size:
            self._buffer_size = 0
            self._maybe_resume_protocol()


def make_transport(loop, sock, *args):
    """Families that only the socket module knows (netlink, CAN, ...) keep asyncio's transport."""
    is_ours = isinstance(sock, socket.socket) and sock.family in _FAMILIES
    return (DatagramTransport if is_ours else _OtherDatagramTransport)(loop, sock, *args)
