"""asyncio's TLS protocol without a read buffer of its own for each connection."""

from asyncio import sslproto

_RECORD_SIZE = 16384  # the most that one read returns: what a TLS record holds


def share_read_buffer(loop, ssl_protocol):
    """Gives an SSLProtocol the loop's buffer, in place of its own 256 KiB.

    The bytes are in it only from get_buffer() to buffer_updated(), which copies them into the BIO and which
    nothing comes in between of: one buffer serves all connections of a loop.
    """
    ssl_protocol._ssl_buffer_view = loop._tls_read_buffer
    ssl_protocol._ssl_buffer = loop._tls_read_buffer.obj


class SSLProtocol(sslproto.SSLProtocol):
    """Never allocates the buffer to begin with; reads without an exception for each message."""

    def __init__(self, loop, *args, **kwargs):
        self.max_size = 0
        super().__init__(loop, *args, **kwargs)
        del self.max_size  # the class's again
        share_read_buffer(loop, self)

    def _do_read__copied(self):
        """asyncio's asks for 256 KiB, which malloc() may map and unmap each time, and asks until there is no more."""
        chunks = []
        chunk = None
        try:
            while True:
                chunk = self._sslobj.read(_RECORD_SIZE)
                if not chunk:
                    break
                chunks.append(chunk)
                if not self._incoming.pending and not self._sslobj.pending():
                    break  # another read would only say so
        except sslproto.SSLAgainErrors:
            pass
        if chunks:
            self._app_protocol.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if chunk == b"":
            # close_notify
            self._call_eof_received()
            self._start_shutdown()

    def _process_outgoing(self):
        # As asyncio's, without the look at the sizes where nothing is left that could be too much.
        if not self._ssl_writing_paused:
            data = self._outgoing.read()
            if data:
                self._transport.write(data)
            if not (self._write_buffer_size or self._app_writing_paused) and self._outgoing_high_water:
                return
        self._control_app_writing()
