"""loop.sock_*(): the call is tried first; what would block waits for one readiness of the descriptor."""

import errno
import socket
from asyncio import base_events, tasks

_READ, _WRITE = 1, 2


class SockMixin:

    def _check_sock(self, sock):
        base_events._check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _sock_wait(self, sock, events):
        """Returns when the socket is ready. Cancelled or not, it leaves nothing registered.

        Until then the number of a socket that its owner closes is not given back: the kernel must not hand it to
        somebody else while we wait for it.
        """
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        future = self.create_future()
        poll = self._poll_start(fd, events, future)
        is_held = isinstance(getattr(sock, "_io_refs", None), int)
        if is_held:
            sock._io_refs += 1
        try:
            await future
        finally:
            poll.stop()
            if is_held:
                sock._decref_socketios()
            future = None  # break the cycle of an exception

    async def sock_recv(self, sock, n):
        """Receive up to n bytes."""
        self._check_sock(sock)
        while True:
            try:
                return sock.recv(n)
            except (BlockingIOError, InterruptedError):
                pass
            await self._sock_wait(sock, _READ)

    async def sock_recv_into(self, sock, buf):
        """Receive into a writable buffer; returns the number of bytes."""
        self._check_sock(sock)
        while True:
            try:
                return sock.recv_into(buf)
            except (BlockingIOError, InterruptedError):
                pass
            await self._sock_wait(sock, _READ)

    async def sock_recvfrom(self, sock, bufsize):
        """Receive a datagram; returns (bytes, address)."""
        self._check_sock(sock)
        while True:
            try:
                return sock.recvfrom(bufsize)
            except (BlockingIOError, InterruptedError):
                pass
            await self._sock_wait(sock, _READ)

    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        """Receive a datagram into a writable buffer; returns (number of bytes, address)."""
        self._check_sock(sock)
        if not nbytes:
            nbytes = len(buf)
        while True:
            try:
                return sock.recvfrom_into(buf, nbytes)
            except (BlockingIOError, InterruptedError):
                pass
            await self._sock_wait(sock, _READ)

    async def sock_sendall(self, sock, data):
        """Send all of data."""
        self._check_sock(sock)
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        view = memoryview(data).cast("B")
        while sent < len(view):
            await self._sock_wait(sock, _WRITE)
            try:
                sent += sock.send(view[sent:])
            except (BlockingIOError, InterruptedError):
                pass

    async def sock_sendto(self, sock, data, address):
        """Send a datagram; returns the number of bytes."""
        self._check_sock(sock)
        try:
            return sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            pass
        while True:
            await self._sock_wait(sock, _WRITE)
            try:
                return sock.sendto(data, 0, address)
            except (BlockingIOError, InterruptedError):
                pass

    async def sock_connect(self, sock, address):
        """Connect to a remote address; host names of TCP and UDP sockets are resolved."""
        self._check_sock(sock)
        if sock.family == socket.AF_INET or (
                base_events._HAS_IPv6 and sock.family == socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self)
            _, _, _, _, address = resolved[0]
        pause = 0.001
        while True:
            try:
                return sock.connect(address)
            except (BlockingIOError, InterruptedError) as exc:
                if exc.errno != errno.EAGAIN or sock.family != socket.AF_UNIX:
                    break
            # The listener's backlog is full, and nothing tells when it no longer is.
            await tasks.sleep(pause)
            pause = min(pause * 2, 0.05)
        # In progress, also after EINTR: the socket becomes writable when the outcome is known.
        await self._sock_wait(sock, _WRITE)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")

    async def sock_accept(self, sock):
        """Accept a connection; returns (socket, address)."""
        self._check_sock(sock)
        while True:
            try:
                connection, address = sock.accept()
            except (BlockingIOError, InterruptedError):
                pass
            else:
                connection.setblocking(False)
                return connection, address
            await self._sock_wait(sock, _READ)
