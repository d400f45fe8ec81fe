"""asyncio's TLS protocol without a read buffer of its own for each connection."""

from asyncio import sslproto


def share_read_buffer(loop, ssl_protocol):
    """Gives an SSLProtocol the loop's buffer, in place of its own 256 KiB.

    The bytes are in it only from get_buffer() to buffer_updated(), which copies them into the BIO and which
    nothing comes in between of: one buffer serves all connections of a loop.
    """
    ssl_protocol._ssl_buffer_view = loop._tls_read_buffer
    ssl_protocol._ssl_buffer = loop._tls_read_buffer.obj


class SSLProtocol(sslproto.SSLProtocol):
    """Never allocates the buffer to begin with."""

    def __init__(self, loop, *args, **kwargs):
        self.max_size = 0
        super().__init__(loop, *args, **kwargs)
        del self.max_size  # the class's again
        share_read_buffer(loop, self)
