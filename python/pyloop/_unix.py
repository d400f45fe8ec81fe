"""What pyloop takes over from asyncio's Unix loop: signals, pipes, subprocesses, datagrams.

Methods of asyncio that reach the selector only through _add_reader() and its kind work on any loop that has those.
They are borrowed as plain functions, so they follow each Python version by themselves; none of them uses super().
"""

import os
import selectors
import signal
import socket
import stat
import sys
import threading
import warnings
import weakref
from asyncio import selector_events, unix_events
from asyncio.log import logger

from . import _core, _datagram

_BORROWED = {
    selector_events.BaseSelectorEventLoop: (
        "_process_self_data", "_close_self_pipe",
        "add_reader", "remove_reader", "add_writer", "remove_writer",
    ),
    unix_events._UnixSelectorEventLoop: (
        "_process_self_data", "remove_signal_handler", "_check_signal",
    ),
}


class _SelectorView:
    """loop._selector as far as asyncio's pipe and datagram transports look at it, in repr()."""

    def __init__(self, loop):
        self._loop = weakref.ref(loop)

    def get_key(self, fileobj):
        loop = self._loop()
        events = loop._watched(fileobj) if loop is not None else 0
        if not events:
            raise KeyError(f"{fileobj!r} is not registered")
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        return selectors.SelectorKey(fileobj, fd, events, None)


class _ReadDeviceTransport(unix_events._UnixReadPipeTransport):
    """asyncio's, with reads of what a pipe holds: malloc() maps and unmaps the 256 KiB of each of asyncio's reads."""

    max_size = 64 * 1024


class _ReadPipeTransport(_core.ReadPipeCore, unix_events._UnixReadPipeTransport):
    """asyncio's, with the reads in C. What _read_ready() does at the end and after an error is told twice."""

    def _read_ended(self):
        if self._loop.get_debug():
            logger.info("%r was closed by peer", self)
        self._closing = True
        self._loop._remove_reader(self._fileno)
        self._loop.call_soon(self._protocol.eof_received)
        self._loop.call_soon(self._call_connection_lost, None)

    def _read_failed(self, error):
        self._fatal_error(error, "Fatal read error on pipe transport")


class _WritePipeTransport(_core.WritePipeCore, unix_events._UnixWritePipeTransport):
    """asyncio's, with writes in C where the pipe takes them at once."""

    def _write_failed(self, error):
        self._conn_lost += 1
        self._fatal_error(error, "Fatal write error on pipe transport")


def _is_device(pipe):
    """A terminal, say: other processes have the same open file, and may make it block."""
    return stat.S_ISCHR(os.fstat(pipe.fileno()).st_mode)


class _SubprocessTransport(unix_events._UnixSubprocessTransport):
    """asyncio's, with signals as they are sent since gh-127049, on every version.

    Popen.send_signal(), which was used before, polls: it reaps a child that has ended, and its status is lost.
    """

    def send_signal(self, signal):
        self._check_proc()
        # Popen knows the end first if somebody polled it, as close() does.
        if self._returncode is None and self._proc.returncode is None:
            try:
                os.kill(self._proc.pid, signal)
            except ProcessLookupError:
                pass

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class UnixMixin:

    for _owner, _names in _BORROWED.items():
        for _name in _names:
            locals()[_name] = vars(_owner)[_name]
    del _owner, _names, _name

    def _init_unix(self):
        self._signal_handlers = {}
        self._transports = weakref.WeakValueDictionary()
        self._ssock = self._csock = None
        self._selector = _SelectorView(self)

    def _ensure_fd_no_transport(self, fd):
        fileno = fd
        if not isinstance(fileno, int):
            try:
                fileno = int(fileno.fileno())
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fd!r}") from None
        if fileno in self._transports:
            # asyncio's own transports: pipes and datagrams.
            transport = self._transports.get(fileno)
            if transport and not transport.is_closing():
                raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")
        if fileno >= 0:
            self._check_fd_free(fileno, fd)

    # Signals.

    def add_signal_handler(self, sig, callback, *args):
        """Call callback(*args) in the loop when the signal arrives. Main thread only."""
        self._check_closed()
        if self._csock is None:
            self._make_self_pipe()
        if sig not in self._signal_handlers:
            _noted_signals.discard(sig)  # a closed loop's
        unix_events._UnixSelectorEventLoop.add_signal_handler(self, sig, callback, *args)
        signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        signal.signal(sig, _note_signal)
        signal.siginterrupt(sig, False)

    def _read_from_self(self):
        selector_events.BaseSelectorEventLoop._read_from_self(self)
        # Python has a flag for each signal, which cannot overflow as the socket can; and it calls _note_signal()
        # before it lets us see the byte. What is left had no room.
        while _noted_signals:
            self._handle_signal(_noted_signals.pop())

    def _handle_signal(self, sig):
        _noted_signals.discard(sig)
        unix_events._UnixSelectorEventLoop._handle_signal(self, sig)

    def _make_self_pipe(self):
        # Only for signal numbers, which Python writes into it: waking the loop needs no socket.
        self._ssock, self._csock = socket.socketpair()
        self._ssock.setblocking(False)
        self._csock.setblocking(False)
        self._internal_fds += 1
        _wakeup_fds.add(self._csock.fileno())
        self._add_reader(self._ssock.fileno(), self._read_from_self)

    def _add_callback(self, handle):
        if not handle._cancelled:
            self.call_soon(handle._run)

    def _add_callback_signalsafe(self, handle):
        self._add_callback(handle)

    def _close_unix(self):
        if self._signal_handlers and sys.is_finalizing():
            warnings.warn(f"Closing the loop {self!r} on interpreter shutdown stage, "
                          "skipping signal handlers removal", ResourceWarning, source=self)
            self._signal_handlers.clear()
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)
        if self._ssock is not None:
            _wakeup_fds.discard(self._csock.fileno())
            self._close_self_pipe()

    # Pipes and datagrams.

    def _make_read_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        make = _ReadDeviceTransport if _is_device(pipe) else _ReadPipeTransport
        return make(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        make = unix_events._UnixWritePipeTransport if _is_device(pipe) else _WritePipeTransport
        return make(self, pipe, protocol, waiter, extra)

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        self._ensure_fd_no_transport(sock)
        return _datagram.make_transport(self, sock, protocol, address, waiter, extra)

    # Subprocesses.

    async def _make_subprocess_transport(self, protocol, args, shell, stdin, stdout, stderr,
                                         bufsize, extra=None, **kwargs):
        waiter = self.create_future()
        transport = _SubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize,
            waiter=waiter, extra=extra, **kwargs)
        self._watch_child(transport.get_pid(), transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _watch_child(self, pid, transport):
        """Reports the end of the child to the transport: by a pidfd, or where there is none by a thread."""
        try:
            pidfd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            threading.Thread(target=self._wait_for_child, args=(pid, transport),
                             name=f"pyloop-waitpid-{pid}", daemon=True).start()
        else:
            self._add_reader(pidfd, self._child_exited, pid, pidfd, transport)

    def _child_exited(self, pid, pidfd, transport):
        self._remove_reader(pidfd)
        os.close(pidfd)
        # Not at once: what the child wrote before it ended has been reported as readable in this turn.
        self.call_soon(_reap_and_publish, pid, transport)

    def _wait_for_child(self, pid, transport):
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass  # somebody else has called waitpid(); _reap() says so
        try:
            self.call_soon_threadsafe(_reap_and_publish, pid, transport)
        except RuntimeError:
            logger.warning("Loop %r that handles pid %r is closed", self, pid)
            _reap(pid, transport)


def _reap_and_publish(pid, transport):
    """In one step of the loop: a pid that is reaped belongs to nobody, and send_signal() must not hit it."""
    transport._process_exited(_reap(pid, transport))


def _reap(pid, transport):
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        # Somebody else has called waitpid().
        polled = transport.get_extra_info("subprocess").returncode
        if polled is not None:
            return polled
        logger.warning("child process pid %d exit status already read: "
                       " will report returncode 255", pid)
        return 255
    try:
        return os.waitstatus_to_exitcode(status)
    except ValueError:
        return status


def _note_signal(sig, frame):
    _noted_signals.add(sig)


def forget_wakeup_fd():
    """In a forked child: signals are not for the parent's loop. asyncio does so from 3.12 on."""
    if sys.version_info < (3, 12):
        fd = signal.set_wakeup_fd(-1)
        if fd not in _wakeup_fds:
            signal.set_wakeup_fd(fd)


_wakeup_fds = set()
_noted_signals = set()  # main thread only; a signal's number, from Python's handler until its byte was read
