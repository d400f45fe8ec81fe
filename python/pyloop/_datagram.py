"""asyncio's datagram transport, put right."""

from asyncio import selector_events, transports


# Before Python 3.12 asyncio's own is a Transport, but no DatagramTransport.
class DatagramTransport(selector_events._SelectorDatagramTransport, transports.DatagramTransport):

    def _sendto_ready(self):
        super()._sendto_ready()
        # 3.13 counts 8 bytes for each datagram that it queues and never takes them back: after some
        # thousands the protocol would stay paused for ever.
        if not self._buffer and self._buffer_size:
            self._buffer_size = 0
            self._maybe_resume_protocol()
