"""Stream connections of the loop: what BaseEventLoop leaves to its subclasses.

create_connection(), create_server(), start_tls() and sendfile() are BaseEventLoop's own code, the Unix
socket ones those of asyncio's Unix loop; they arrive here with a connected or listening socket.
"""

import contextvars
import functools
import os
import socket
from asyncio import base_events, constants, exceptions, selector_events, unix_events
from asyncio.log import logger

from . import _parallel, _tls
from ._core import ServerSocket, StreamTransport

_UnixLoop = unix_events._UnixSelectorEventLoop


def _accept_ssl(protocol_factory, sslcontext, server, ssl_handshake_timeout, ssl_shutdown_timeout, loop, fd):
    loop._accept_ssl(protocol_factory, sslcontext, server, ssl_handshake_timeout, ssl_shutdown_timeout, fd)


_SOCKET_CALLS = ("recv", "recv_into", "send", "sendmsg")


def _opener(sock):
    """What makes the transport. A subclass of socket that has methods of its own is asked, by asyncio's transport."""
    kind = type(sock)
    if kind is not socket.socket and isinstance(sock, socket.socket) and any(
            getattr(kind, name) is not getattr(socket.socket, name) for name in _SOCKET_CALLS):
        return selector_events._SelectorSocketTransport
    return StreamTransport._open


class TransportsMixin:
    """A base of Loop, before asyncio.BaseEventLoop."""

    # They use only methods of the loop: the same code in every version's own words.
    create_unix_connection = _UnixLoop.create_unix_connection
    create_unix_server = _UnixLoop.create_unix_server
    _sock_sendfile_native = _UnixLoop._sock_sendfile_native
    _sock_sendfile_native_impl = _UnixLoop._sock_sendfile_native_impl
    _sock_sendfile_update_filepos = _UnixLoop._sock_sendfile_update_filepos
    _sock_add_cancellation_callback = _UnixLoop._sock_add_cancellation_callback

    @functools.cached_property
    def _unix_server_sockets(self):
        """Listening socket to the inode of its path (3.13: the path is removed at close)."""
        return {}

    @functools.cached_property
    def _server_sockets(self):
        """Descriptor to the ServerSocket that accepts on it."""
        return {}

    # -- connections

    def _make_socket_transport(self, sock, protocol, waiter=None, *,
                               extra=None, server=None, context=None):
        self._ensure_fd_no_transport(sock)
        make = _opener(sock)
        if context is None:
            return make(self, sock, protocol, waiter, extra, server)
        return context.run(make, self, sock, protocol, waiter, extra, server)

    def _make_ssl_transport(self, rawsock, protocol, sslcontext, waiter=None, *,
                            server_side=False, server_hostname=None, extra=None, server=None,
                            ssl_handshake_timeout=constants.SSL_HANDSHAKE_TIMEOUT,
                            ssl_shutdown_timeout=constants.SSL_SHUTDOWN_TIMEOUT,
                            context=None):
        """`rawsock` is a socket, or the number of an accepted descriptor that becomes ours."""
        if not isinstance(rawsock, int):
            self._ensure_fd_no_transport(rawsock)
        ssl_protocol = _tls.SSLProtocol(
            self, protocol, sslcontext, waiter, server_side, server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout)
        run = contextvars.copy_context().run if context is None else context.run
        run(_opener(rawsock), self, rawsock, ssl_protocol, None, extra, server)
        return ssl_protocol._app_transport

    @functools.cached_property
    def _tls_read_buffer(self):
        return memoryview(bytearray(_tls.SSLProtocol.max_size))

    async def start_tls(self, transport, protocol, sslcontext, *, server_side=False, server_hostname=None,
                        ssl_handshake_timeout=None, ssl_shutdown_timeout=None):
        """Upgrade a transport to TLS; returns the transport to use from now on."""
        upgraded = await base_events.BaseEventLoop.start_tls(
            self, transport, protocol, sslcontext, server_side=server_side, server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout, ssl_shutdown_timeout=ssl_shutdown_timeout)
        if upgraded is not None:
            _tls.share_read_buffer(self, upgraded._ssl_protocol)
        return upgraded

    # -- servers

    def _start_serving(self, protocol_factory, sock, sslcontext=None, server=None, backlog=100,
                       ssl_handshake_timeout=constants.SSL_HANDSHAKE_TIMEOUT,
                       ssl_shutdown_timeout=constants.SSL_SHUTDOWN_TIMEOUT, context=None):
        accept = None
        if self._first_view is not None:
            protocol_factory = _parallel.factory_of_each_view(protocol_factory)
        if sslcontext:
            accept = functools.partial(
                _accept_ssl, protocol_factory, sslcontext, server,
                ssl_handshake_timeout, ssl_shutdown_timeout)
        self._server_sockets[sock.fileno()] = ServerSocket(
            self, sock, protocol_factory, server, context, accept)

    def _accept_ssl(self, protocol_factory, sslcontext, server,
                    ssl_handshake_timeout, ssl_shutdown_timeout, fd):
        """Called in a context of the connection's own. Owns the fd unless it raises."""
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_ssl_transport(
            fd, protocol, sslcontext, waiter, server_side=True, server=server,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout)
        waiter.add_done_callback(
            functools.partial(self._ssl_accepted, protocol, transport))

    def _ssl_accepted(self, protocol, transport, waiter):
        """The handshake is over. If it failed, asyncio says so in debug mode only."""
        if waiter.cancelled():
            exc = exceptions.CancelledError()
        else:
            exc = waiter.exception()
        if exc is None:
            return
        transport.close()
        if self.get_debug():
            self.call_exception_handler({
                'message': 'Error on transport creation for incoming connection',
                'exception': exc,
                'protocol': protocol,
                'transport': transport,
            })

    def _stop_serving(self, sock):
        path = sock.getsockname() if sock in self._unix_server_sockets else None
        listener = self._server_sockets.pop(sock.fileno(), None)
        if listener is not None:
            listener.close()
        else:
            sock.close()
        if path is not None:
            self._remove_unix_path(path, self._unix_server_sockets.pop(sock))

    @staticmethod
    def _remove_unix_path(path, inode):
        """Unless somebody else's socket has taken its place."""
        try:
            if os.stat(path).st_ino == inode:
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as err:
            logger.error('Unable to clean up listening UNIX socket %r: %r', path, err)

    # -- sendfile

    async def _sendfile_native(self, transp, file, offset, count):
        if not isinstance(transp, StreamTransport):
            return await selector_events.BaseSelectorEventLoop._sendfile_native(self, transp, file, offset, count)
        resume_reading = transp.is_reading()
        transp.pause_reading()
        try:
            await transp._make_empty_waiter()
            return await self.sock_sendfile(transp._sock, file, offset, count, fallback=False)
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()
