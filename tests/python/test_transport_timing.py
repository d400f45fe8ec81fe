"""When things happen to a StreamTransport: what code written for asyncio relies on without knowing it."""

import asyncio

import pytest

from transport_kit import TIMEOUT, Recorder, open_pair, read_exactly


def test_a_writer_that_never_yields_sees_the_failure(run):
    """asyncio's drain() looks at is_closing() and nothing else."""
    class Protocol(Recorder):
        def eof_received(self):
            return True

    async def main():
        transport, protocol, peer = await open_pair(Protocol)
        peer.close()
        for _ in range(1000):
            transport.write(b"x" * 1000)
            if transport.is_closing():
                break
        assert transport.is_closing()
        assert isinstance(await asyncio.wait_for(protocol.lost, TIMEOUT), BrokenPipeError)

    run(main())


@pytest.mark.parametrize("data", [b"", b"last words"])
@pytest.mark.parametrize("method", ["close", "abort"])
def test_connection_lost_comes_in_the_next_iteration(run, method, data):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(data)
        getattr(transport, method)()
        await asyncio.sleep(0)
        assert protocol.lost.done()
        peer.close()

    run(main())


def test_abort_of_a_full_connection_is_lost_in_the_next_iteration(run):
    async def main():
        transport, protocol, peer = await open_pair()
        transport.write(b"x" * 10_000_000)
        for _ in range(5):
            await asyncio.sleep(0)
        transport.abort()
        await asyncio.sleep(0)
        assert protocol.lost.done()
        peer.close()

    run(main())


def test_a_closing_transport_takes_what_resume_writing_writes(run):
    class Protocol(Recorder):
        def resume_writing(self):
            super().resume_writing()
            self.transport.write(b"the end")

    async def main():
        transport, protocol, peer = await open_pair(Protocol)
        transport.write(b"x" * 3_000_000)
        transport.close()
        data = await read_exactly(peer, 3_000_007)
        assert data == b"x" * 3_000_000 + b"the end"
        assert await asyncio.get_running_loop().sock_recv(peer, 10) == b""
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None
        peer.close()

    run(main())


@pytest.mark.parametrize("method", ["close", "abort"])
def test_ending_inside_data_received(run, method):
    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"answer")
            getattr(self.transport, method)()
            assert "connection_lost" not in self.names()

    async def main():
        _, protocol, peer = await open_pair(Protocol)
        peer.send(b"question")
        assert await read_exactly(peer, 6) == b"answer"
        assert await asyncio.get_running_loop().sock_recv(peer, 10) == b""
        assert await asyncio.wait_for(protocol.lost, TIMEOUT) is None
        assert protocol.names() == ["connection_made", "data_received", "connection_lost"]
        peer.close()

    run(main())
