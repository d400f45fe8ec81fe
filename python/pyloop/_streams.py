"""asyncio's streams with a C half.

The classes are asyncio's: what is not hot (start_tls(), repr(), waiting in drain()) is its own code, working on the
fields of the C half. So are the functions, which only see our classes under the names they look up. They work on
every event loop; the short way from the socket to the reader needs one of ours.
"""

import asyncio
import types
from asyncio import streams

from . import _core

_FUNCTIONS = ("open_connection", "start_server", "open_unix_connection", "start_unix_server")
_CLASSES = ("StreamReader", "StreamReaderProtocol", "StreamWriter")
_names = dict(vars(streams))
_KEEPS_WRITER = hasattr(streams.StreamReaderProtocol, "_replace_writer")  # before 3.13


def _with_our_classes(function):
    """The same function, which looks up our classes instead of asyncio's."""
    copy = types.FunctionType(function.__code__, _names, function.__name__, function.__defaults__,
                              function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__ = function.__doc__
    copy.__module__ = "pyloop"
    return copy


_connection_made = _with_our_classes(streams.StreamReaderProtocol.connection_made)


class _Unread(bytearray):
    """A copy of what a reader has not given out. asyncio's start_tls() takes the start of a handshake from it."""

    __slots__ = ("_reader",)

    def clear(self):
        """Empties the reader, too."""
        super().clear()
        _core.StreamReaderCore._buffer.__delete__(self._reader)


class StreamReader(_core.StreamReaderCore, streams.StreamReader):
    """asyncio.StreamReader(limit=65536, loop=None)"""

    @property
    def _buffer(self):
        unread = _Unread(_core.StreamReaderCore._buffer.__get__(self))
        unread._reader = self
        return unread


class StreamReaderProtocol(_core.StreamProtocolCore, streams.StreamReaderProtocol):
    """asyncio.StreamReaderProtocol(stream_reader, client_connected_cb=None, loop=None)"""

    def connection_made(self, transport):
        """asyncio's. What its closure for the end of the handler keeps as long as the connection, we keep in self."""
        # _task_transport: a handler of another connection_made() still runs; each needs its closure then.
        if self._client_connected_cb is None or self._reject_connection or self._task_transport is not None:
            _connection_made(self, transport)
            return
        self._transport = transport
        reader = self._stream_reader
        if reader is not None:
            reader.set_transport(transport)
        self._over_ssl = transport.get_extra_info("sslcontext") is not None
        writer = StreamWriter(transport, self, reader, self._loop)
        if _KEEPS_WRITER:
            self._stream_writer = writer
        try:
            result = self._client_connected_cb(reader, writer)
        except Exception as error:  # of a plain function; older asyncio leaves its connection open
            self._handler_failed(error, transport)
            result = None
        if asyncio.iscoroutine(result):
            self._task = self._loop.create_task(result)
            self._watch_handler(self._task, transport)
        self._strong_reader = None

    def _handler_ended(self, task):
        """That closure: the callback of the task, whose connection is not left open if it failed."""
        transport, self._task_transport = self._task_transport, None
        if task.cancelled():  # CPython before 3.12.2 stumbles here
            transport.close()
            return
        error = task.exception()
        if error is not None:
            self._handler_failed(error, transport)

    def _handler_failed(self, error, transport):
        self._loop.call_exception_handler({
            "message": "Unhandled exception in client_connected_cb", "exception": error, "transport": transport})
        transport.close()


class StreamWriter(_core.StreamWriterCore, streams.StreamWriter):
    """asyncio.StreamWriter(transport, protocol, reader, loop)"""

    async def _drain_slowly(self):
        """asyncio's drain(), in the view where the protocol is told to go on: asking it and waiting are two steps."""
        loop = self._loop
        drain = super(_core.StreamWriterCore, self).drain()
        if loop is asyncio.get_running_loop():
            return await drain
        try:
            future = asyncio.run_coroutine_threadsafe(drain, loop)
        except RuntimeError:  # it is closed
            drain.close()
            raise
        return await asyncio.wrap_future(future)


open_connection = _with_our_classes(streams.open_connection)
start_server = _with_our_classes(streams.start_server)
open_unix_connection = _with_our_classes(streams.open_unix_connection)
start_unix_server = _with_our_classes(streams.start_unix_server)

_names.update({name: globals()[name] for name in (*_CLASSES, *_FUNCTIONS)})


def install():
    """Put them under asyncio's names, for code that looks them up from now on."""
    for name in (*_CLASSES, *_FUNCTIONS):
        for module in (asyncio, streams):
            setattr(module, name, globals()[name])
