"""asyncio's datagram transport, put right."""

import socket
from asyncio import selector_events, transports

# No IP datagram is larger. What asyncio asks recvfrom() for is 256 KiB, and malloc() maps and unmaps that for each
# one. Only Unix sockets carry datagrams of such a size.
_IP_BYTES_MAX = 65536


# Before Python 3.12 asyncio's own is a Transport, but no DatagramTransport.
class DatagramTransport(selector_events._SelectorDatagramTransport, transports.DatagramTransport):

    def __init__(self, loop, sock, protocol, address=None, waiter=None, extra=None):
        super().__init__(loop, sock, protocol, address, waiter, extra)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            self.max_size = _IP_BYTES_MAX

    def _sendto_ready(self):
        super()._sendto_ready()
        # 3.13 counts 8 bytes for each datagram that it queues and never takes them back: after some
        # thousands the protocol would stay paused for ever.
        if not self._buffer and self._buffer_size:
            self._buffer_size = 0
            self._maybe_resume_protocol()
