"""Datagram, pipe and subprocess transports under bad use: wrong arguments, protocols that raise, calls after the end.

Everything is done on a loop of ours and on a stock one, and must come out the same: the type of exception, what the
exception handler gets, what the protocol hears. A hypothesis test drives the methods with values of all kinds.
"""

import asyncio
import os
import signal

import pytest

from bad_input_kit import differences, resources
import pyloop

TIMEOUT = 10
PROGRAM = ("/bin/sh", "-c", "cat; echo error >&2; exit 3")
KINDS = ("datagram", "connected datagram", "read pipe", "write pipe", "subprocess")
PROTOCOL = {"datagram": asyncio.DatagramProtocol, "connected datagram": asyncio.DatagramProtocol,
            "read pipe": asyncio.Protocol, "write pipe": asyncio.BaseProtocol,
            "subprocess": asyncio.SubprocessProtocol}

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning")


class OnPurpose(Exception):
    pass


def recording(base, raising=None):
    """A protocol that notes its calls; the method named `raising` raises."""
    calls = []

    def make(name):
        def method(self, *args):
            calls.append(name)
            if name == raising:
                raise OnPurpose(name)
        return method

    names = [name for name in dir(base) if not name.startswith("_")]
    return type("Recording", (base,), {name: make(name) for name in names})(), calls


class Subject:
    """An open transport of a kind on a loop of its own, with its other end."""

    def __init__(self, loop, kind, raising=None):
        self.loop, self.kind = loop, kind
        self.protocol, self.calls = recording(PROTOCOL[kind], raising)
        self.reports = []
        loop.set_exception_handler(lambda _, context: self.reports.append(type(context.get("exception"))))
        self.other = None
        self.transport, _ = loop.run_until_complete(self._open())

    def _open(self):
        loop, factory = self.loop, lambda: self.protocol
        if self.kind == "datagram":
            return loop.create_datagram_endpoint(factory, ("127.0.0.1", 0))
        if self.kind == "connected datagram":
            return loop.create_datagram_endpoint(factory, remote_addr=resources.datagram().getsockname())
        if self.kind == "subprocess":
            return loop.subprocess_exec(factory, *PROGRAM)
        reading, writing = os.pipe()
        ours, self.other = (reading, writing) if self.kind == "read pipe" else (writing, reading)
        os.set_blocking(self.other, False)
        if self.kind == "read pipe":
            return loop.connect_read_pipe(factory, open(ours, "rb", 0))
        return loop.connect_write_pipe(factory, open(ours, "wb", 0))

    def turn(self, times=2):
        for _ in range(times):
            self.loop.run_until_complete(asyncio.sleep(0))

    def wait_for(self, *names):
        async def main():
            while not set(names) <= set(self.calls):
                await asyncio.sleep(0.001)
        self.loop.run_until_complete(asyncio.wait_for(main(), TIMEOUT))

    def end(self):
        """Closes everything; the loop must still work."""
        if self.kind == "subprocess":
            self.transport.close()
            self.loop.run_until_complete(asyncio.wait_for(self.transport._wait(), TIMEOUT))
            self.turn()
        elif "connection_lost" not in self.calls:
            getattr(self.transport, "abort", self.transport.close)()
        self.turn(3)
        if self.other is not None:
            os.close(self.other)
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


def both(backend, kind, raising=None):
    yield Subject(asyncio.SelectorEventLoop(), kind, raising)
    yield Subject(pyloop.Loop(backend=backend), kind, raising)


# Wrong arguments.

LIMITS = [lambda: 10, lambda: 5]
INFO = [lambda: "socket", lambda: None]
CALLS = {
    "datagram": {"sendto": [lambda: b"data", resources.address], "set_write_buffer_limits": LIMITS,
                 "get_extra_info": INFO},
    "connected datagram": {"sendto": [lambda: b"data", lambda: None]},
    "read pipe": {"get_extra_info": INFO},
    "write pipe": {"write": [lambda: b"data"], "set_write_buffer_limits": LIMITS, "get_extra_info": INFO},
    "subprocess": {"send_signal": [lambda: signal.SIGCONT], "get_pipe_transport": [lambda: 0], "get_extra_info": INFO},
}


def outcome(subject, method, arguments):
    try:
        getattr(subject.transport, method)(*arguments)
        found = "returns"
    except BaseException as error:
        found = type(error)
    subject.turn()
    state = subject.transport.is_closing()
    subject.end()
    return found, subject.reports, state


@pytest.mark.parametrize("kind, method", [(kind, method) for kind in KINDS for method in CALLS[kind]])
def test_wrong_arguments(backend, kind, method):
    assert list(differences(
        CALLS[kind][method], method, lambda: Subject(asyncio.SelectorEventLoop(), kind),
        lambda: Subject(pyloop.Loop(backend=backend), kind), outcome, {})) == []


# Protocols that raise.

def use(subject):
    """Makes every call of the protocol happen."""
    transport, kind = subject.transport, subject.kind
    if kind == "datagram":
        transport.sendto(b"data", transport.get_extra_info("sockname"))
        transport.sendto(b"x" * 100_000, transport.get_extra_info("sockname"))
        subject.wait_for("datagram_received", "error_received")
    elif kind == "read pipe":
        os.write(subject.other, b"data")
        subject.wait_for("data_received")
        os.close(subject.other)
        subject.other = None
        if "eof_received" in dir(subject.protocol):
            subject.wait_for("eof_received")
    elif kind == "write pipe":
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x" * 1_000_000)
        subject.wait_for("pause_writing")
        while transport.get_write_buffer_size():
            try:
                os.read(subject.other, 1 << 16)
            except BlockingIOError:
                pass
            subject.turn(1)
        subject.wait_for("resume_writing")
    elif kind == "subprocess":
        transport.get_pipe_transport(0).write(b"data")
        transport.get_pipe_transport(0).close()
        subject.wait_for("pipe_data_received", "process_exited")
    transport.close()
    subject.wait_for("connection_lost")


RAISING = [
    ("datagram", "connection_made datagram_received connection_lost"),
    ("read pipe", "connection_made eof_received connection_lost"),
    ("write pipe", "connection_made pause_writing resume_writing connection_lost"),
    ("subprocess", "connection_made pipe_data_received pipe_connection_lost process_exited connection_lost"),
]


@pytest.mark.parametrize("kind, raising", [(kind, name) for kind, names in RAISING for name in names.split()])
def test_protocols_that_raise(backend, kind, raising):
    found = []
    for subject in both(backend, kind, raising):
        use(subject)
        subject.end()
        found.append((set(subject.calls), subject.reports))
    stock, ours = found
    assert ours == stock
    assert OnPurpose in ours[1]
    resources.close()


def test_error_received_that_raises(backend):
    """Stock asyncio calls it inside sendto(), which passes it on; here the caller may be gone."""
    subject = Subject(pyloop.Loop(backend=backend), "datagram", "error_received")
    use(subject)
    subject.end()
    assert subject.reports == [OnPurpose]


def test_data_received_of_a_pipe_that_raises(backend):
    found = []
    for subject in both(backend, "read pipe", "data_received"):
        os.write(subject.other, b"data")
        subject.wait_for("data_received")
        subject.turn(5)
        state = subject.transport.is_closing()
        subject.end()
        found.append((subject.calls, subject.reports, state))
    assert found[0] == found[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_must_leave_the_loop_does(loop, error):
    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            raise error

    transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(Protocol, ("127.0.0.1", 0)))
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    with pytest.raises(error):
        loop.run_until_complete(asyncio.sleep(TIMEOUT))
    assert not transport.is_closing()
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))


# After the end.

AFTER = {
    "datagram": ["close", "abort", "is_closing", "get_protocol", "get_write_buffer_size", "get_write_buffer_limits"],
    "connected datagram": [("sendto", b"x"), ("sendto", b"x", ("127.0.0.1", 1)), ("sendto", "text"), "close", "abort"],
    "read pipe": ["close", "pause_reading", "resume_reading", "is_reading", "is_closing", "get_protocol"],
    "write pipe": [("write", b"x"), ("write", "text"), ("write", b""), "write_eof", "can_write_eof", "close", "abort",
                   "get_write_buffer_size"],
    "subprocess": ["close", "get_pid", "get_returncode", "kill", "terminate", ("send_signal", 15), "is_closing",
                   ("get_pipe_transport", 0), ("get_pipe_transport", 9)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_end(backend, kind):
    found = []
    for subject in both(backend, kind):
        subject.transport.close()
        subject.wait_for("connection_lost")
        results = []
        for call in AFTER[kind] * 2:
            name, *arguments = (call,) if isinstance(call, str) else call
            try:
                getattr(subject.transport, name)(*arguments)
                results.append((call, "returns"))
            except Exception as error:
                results.append((call, type(error)))
        subject.turn()
        subject.loop.close()
        if subject.other is not None:
            os.close(subject.other)
        found.append((results, subject.reports))
    stock, ours = found
    assert ours == stock
    resources.close()


def test_a_datagram_after_the_end_is_dropped(loop):
    """Stock asyncio stumbles over its own None here: AttributeError."""
    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0)))
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    transport.sendto(b"x", ("127.0.0.1", 9))


# Anything at all.

EXPECTED = (TypeError, ValueError, OverflowError, OSError, RuntimeError, AttributeError, BufferError,
            AssertionError)  # asyncio's own pipes check with assert


def test_hypothesis_drives_the_methods(backend):
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    # No names: a resolver would be asked.
    hosts = strategies.sampled_from(["127.0.0.1", "::1", "", "a\0b", "\udc80", b"127.0.0.1", None, 5])
    numbers = strategies.one_of(strategies.integers(), strategies.floats(), strategies.integers(0, 65535))
    values = strategies.one_of(
        strategies.none(), strategies.booleans(), numbers, strategies.binary(max_size=100), strategies.text(max_size=5),
        strategies.binary(max_size=100).map(bytearray), strategies.binary(max_size=100).map(memoryview),
        strategies.tuples(hosts, numbers), strategies.tuples(hosts, numbers, numbers, numbers),
        strategies.lists(numbers, max_size=3), strategies.just(b"x" * 70_000))
    names = {
        "datagram": ["sendto", "close", "abort", "set_write_buffer_limits", "get_extra_info", "pause_reading",
                     "resume_reading", "get_write_buffer_size", "is_closing"],
        "read pipe": ["pause_reading", "resume_reading", "close", "get_extra_info", "is_closing"],
        "write pipe": ["write", "writelines", "write_eof", "close", "abort", "set_write_buffer_limits",
                       "get_write_buffer_size"],
    }
    names["connected datagram"] = names["datagram"]
    steps = {kind: strategies.lists(strategies.tuples(strategies.sampled_from(names[kind]),
                                                      strategies.lists(values, max_size=2)), max_size=6)
             for kind in names}
    cases = strategies.sampled_from(sorted(names)).flatmap(
        lambda kind: strategies.tuples(strategies.just(kind), steps[kind]))
    descriptors = len(os.listdir("/dev/fd"))

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(cases)
    def drive(case):
        kind, calls = case
        subject = Subject(pyloop.Loop(backend=backend), kind)
        try:
            for name, arguments in calls:
                try:
                    getattr(subject.transport, name)(*arguments)
                except EXPECTED:
                    pass
            subject.turn()
            assert set(subject.reports) <= set(EXPECTED)
        finally:
            subject.end()
        assert subject.calls.count("connection_made") == subject.calls.count("connection_lost") == 1
        resources.close()
        assert len(os.listdir("/dev/fd")) == descriptors

    drive()
