"""StreamTransport: extra information, who owns the descriptor, and the end of transport and loop."""

import asyncio
import gc
import logging
import socket
from asyncio import trsock

import pytest

from transport_kit import TIMEOUT, Recorder, finish, open_pair, open_tcp_pair


# ---- extra info and the descriptor ----


def test_extra_info(run):
    async def main():
        transport, protocol, peer = await open_tcp_pair()
        sock = transport.get_extra_info("socket")
        assert type(sock) is trsock.TransportSocket
        assert transport.get_extra_info("socket") is sock
        assert transport.get_extra_info("sockname") == peer.getpeername()
        assert transport.get_extra_info("peername") == peer.getsockname()
        assert transport.get_extra_info("no such") is None
        assert transport.get_extra_info("no such", 5) == 5
        assert transport.get_extra_info(name="no such", default=6) == 6
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert sock.gettimeout() == 0
        names = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        await finish(transport, protocol, peer)
        assert sock.fileno() == -1
        assert (transport.get_extra_info("sockname"), transport.get_extra_info("peername")) == names
        assert transport.get_extra_info("socket") is sock

    run(main())


def test_extra_given_by_the_caller(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        protocol = Recorder()
        transport = loop._make_socket_transport(
            ours, protocol, extra={"peername": "me", "more": 1, "sockname": "ignored"})
        assert transport.get_extra_info("peername") == "me"
        assert transport.get_extra_info("more") == 1
        assert transport.get_extra_info("sockname") == ours.getsockname()
        assert set(transport._extra) == {"peername", "more", "sockname", "socket"}
        transport._extra["added"] = 2
        assert transport.get_extra_info("added") == 2
        assert transport.get_extra_info("peername") == "me"
        await finish(transport, protocol, theirs)

    run(main())


def test_the_users_socket_is_closed_through_its_own_close(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        await finish(transport, protocol, theirs)
        assert ours.fileno() == -1

    run(main())


def test_closing_the_users_socket_does_not_pull_the_fd_away(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        fd = ours.fileno()
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        ours.close()
        others = [socket.socket() for _ in range(5)]
        assert fd not in [other.fileno() for other in others]
        theirs.send(b"alive")
        await protocol.until_received(5)
        await finish(transport, protocol, theirs)
        assert ours.fileno() == -1
        for other in others:
            other.close()

    run(main())


def test_the_fd_of_a_transport_is_taken(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await open_pair()
        sock = transport.get_extra_info("socket")
        fd = sock.fileno()
        for call in (lambda: loop.add_reader(fd, print), lambda: loop.add_writer(fd, print),
                     lambda: loop.remove_reader(fd), lambda: loop.remove_writer(fd)):
            with pytest.raises(RuntimeError) as error:
                call()
            assert str(error.value) == f"File descriptor {fd} is used by transport {transport!r}"
        with pytest.raises(RuntimeError) as error:
            loop.add_reader(sock, print)
        assert str(error.value) == f"File descriptor {sock!r} is used by transport {transport!r}"
        await finish(transport, protocol, peer)
        assert loop.remove_reader(fd) is False

    run(main())


def test_no_second_transport_on_one_fd(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol, peer = await open_pair()
        sock = transport._sock
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop._make_socket_transport(sock, Recorder())
        peer.send(b"unharmed")
        await protocol.until_received(8)
        await finish(transport, protocol, peer)

    run(main())


def test_failed_construction_leaves_the_socket_open(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with pytest.raises(AttributeError, match="connection_made"):
            loop._make_socket_transport(ours, object())
        ours.send(b"open")
        assert theirs.recv(10) == b"open"
        protocol = Recorder()
        transport = loop._make_socket_transport(ours, protocol)
        await finish(transport, protocol, theirs)
        assert ours.fileno() == -1

    run(main())


# ---- loop and transport end in any order ----


def test_unclosed_transport_warns_when_the_loop_is_closed(new_loop):
    loop = new_loop()
    transport, protocol, peer = loop.run_until_complete(open_pair())
    sock = transport._sock
    loop.close()
    assert sock.fileno() != -1
    text = repr(transport)
    protocol.transport = None
    with pytest.warns(ResourceWarning) as caught:
        del transport, protocol
        gc.collect()
    assert [str(w.message) for w in caught] == [f"unclosed transport {text}"]
    assert sock.fileno() == -1
    assert peer.recv(1) == b""
    peer.close()


def test_methods_after_the_loop_was_closed(new_loop):
    loop = new_loop()
    transport, protocol, peer = loop.run_until_complete(open_pair())
    loop.close()
    transport.write(b"dropped")
    transport.pause_reading()
    transport.resume_reading()
    transport.set_protocol(protocol)
    assert transport.get_write_buffer_size() == 0
    transport.write_eof()
    transport.close()
    transport.abort()
    assert transport.is_closing()
    peer.close()
    protocol.transport = None
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport, protocol
        gc.collect()


def test_loop_closed_with_data_queued_and_close_pending(new_loop):
    loop = new_loop()
    transport, protocol, peer = loop.run_until_complete(open_pair())
    transport.write(b"x" * 10_000_000)
    transport.close()
    loop.close()
    protocol.transport = None
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport, protocol
        gc.collect()
    peer.close()


def test_debug_mode_logs(new_loop, caplog):
    loop = new_loop()
    loop.set_debug(True)

    async def main():
        transport, protocol, peer = await open_pair()
        transport.pause_reading()
        transport.resume_reading()
        peer.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(protocol.lost, TIMEOUT)
        peer.close()

    with caplog.at_level(logging.DEBUG, "asyncio"):
        loop.run_until_complete(main())
    loop.close()
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "pauses reading" in text
    assert "resumes reading" in text
    assert "received EOF" in text


def test_debug_mode_names_a_slow_protocol(new_loop, caplog):
    loop = new_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0

    async def main():
        transport, protocol, peer = await open_pair()
        peer.send(b"x")
        await protocol.until_received(1)
        await finish(transport, protocol, peer)

    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_until_complete(main())
    loop.close()
    assert any("data_received" in r.getMessage() and "took" in r.getMessage()
               for r in caplog.records)
