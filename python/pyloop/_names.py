"""getaddrinfo() and getnameinfo(): what needs no look-up needs no thread."""

import asyncio
import socket

_NUMERIC_QUERY = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_NUMERIC_ANSWER = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


def _may_be_numeric(host):
    """False for most names, so that they are not tried in vain."""
    if host is None:
        return True
    if isinstance(host, str):
        return ":" in host or host[-1:].isdecimal()
    return isinstance(host, bytes) and (b":" in host or host[-1:].isdigit())


class NamesMixin:

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        """socket.getaddrinfo(), in a thread unless host and port are literals."""
        if _may_be_numeric(host):
            try:
                return socket.getaddrinfo(host, port, family, type, proto, flags | _NUMERIC_QUERY)
            except socket.gaierror:
                pass  # not literals after all; if it is something else, the look-up says it again
        return await asyncio.BaseEventLoop.getaddrinfo(
            self, host, port, family=family, type=type, proto=proto, flags=flags)

    async def getnameinfo(self, sockaddr, flags=0):
        """socket.getnameinfo(), in a thread unless numbers are asked for."""
        if isinstance(flags, int) and flags & _NUMERIC_ANSWER == _NUMERIC_ANSWER:
            return socket.getnameinfo(sockaddr, flags)
        return await asyncio.BaseEventLoop.getnameinfo(self, sockaddr, flags)
