"""asyncio's TLS protocol without a read buffer of its own for each connection, and with a short way for a message."""

from asyncio import sslproto

_RECORD_SIZE = 16384  # the most that one read returns: what a TLS record holds
_WRAPPED = sslproto.SSLProtocolState.WRAPPED


def share_read_buffer(loop, ssl_protocol):
    """Gives an SSLProtocol the loop's buffer, in place of its own 256 KiB.

    The bytes are in it only from get_buffer() to buffer_updated(), which copies them into the BIO and which
    nothing comes in between of: one buffer serves all connections of a loop.
    """
    ssl_protocol._ssl_buffer_view = loop._tls_read_buffer
    ssl_protocol._ssl_buffer = loop._tls_read_buffer.obj


class SSLProtocol(sslproto.SSLProtocol):
    """Never allocates the buffer to begin with; reads without an exception for each message.

    buffer_updated() and _write_appdata() are asyncio's for the usual case, in which the connection is established and
    nothing is paused or left from before, without the calls and looks that then find nothing. All else is asyncio's.
    """

    def __init__(self, loop, *args, **kwargs):
        self.max_size = 0
        super().__init__(loop, *args, **kwargs)
        del self.max_size  # the class's again
        share_read_buffer(loop, self)

    def get_buffer(self, n):
        return self._ssl_buffer_view

    def buffer_updated(self, nbytes):
        if self._state is not _WRAPPED or self._app_reading_paused or self._app_protocol_is_buffer:
            return super().buffer_updated(nbytes)
        incoming = self._incoming
        incoming.write(self._ssl_buffer_view[:nbytes])
        try:
            self._do_read__copied()
            if self._write_backlog:
                self._do_write()
            elif self._outgoing.pending or self._app_writing_paused or not self._outgoing_high_water:
                self._process_outgoing()
            if incoming.pending or self._ssl_reading_paused:
                self._control_ssl_reading()
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")

    def _write_appdata(self, list_of_data):
        # A tuple is what write() makes; what writelines() is given may be any iterable.
        if self._state is not _WRAPPED or self._write_backlog or type(list_of_data) is not tuple or \
                len(list_of_data) != 1:
            return super()._write_appdata(list_of_data)
        data, = list_of_data
        size = len(data)
        try:
            count = self._sslobj.write(data)
            if count == size:
                return self._process_outgoing()
        except sslproto.SSLAgainErrors:
            count = 0
        except Exception as exc:
            return self._fatal_error(exc, "Fatal error on SSL protocol")
        super()._write_appdata([data[count:]])

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
