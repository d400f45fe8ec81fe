"""Small reads of pipes and datagrams map no memory.

asyncio's transports ask the kernel for 256 KiB each time, and malloc() maps and unmaps that: two page faults and
three system calls a message.
"""

import os
import subprocess
import sys

import pytest

COUNT = 500

PROGRAM = """
import asyncio, os, resource, sys, pyloop

COUNT = int(sys.argv[2])


class Reader(asyncio.DatagramProtocol, asyncio.Protocol):
    def __init__(self):
        self.got = 0

    def data_received(self, data):
        self.got += 1

    def datagram_received(self, data, address):
        self.got += 1


async def pipe(loop):
    read, write = os.pipe()
    _, reader = await loop.connect_read_pipe(Reader, open(read, "rb", 0))
    return reader, lambda: os.write(write, b"x" * 100)


async def udp(loop):
    transport, reader = await loop.create_datagram_endpoint(Reader, ("127.0.0.1", 0))
    name = transport.get_extra_info("sockname")
    sender, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=name)
    return reader, lambda: sender.sendto(b"x" * 100)


async def main():
    reader, send = await {"pipe": pipe, "udp": udp}[sys.argv[1]](asyncio.get_running_loop())
    for turn in range(2):  # in the first the heap grows
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for number in range(turn * COUNT, (turn + 1) * COUNT):
            send()
            while reader.got == number:
                await asyncio.sleep(0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


loop = pyloop.new_event_loop()
loop.run_until_complete(asyncio.wait_for(main(), 20))
"""


@pytest.mark.skipif(os.environ.get("PYLOOP_SANITIZED") == "1", reason="a sanitizer has an allocator of its own")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the tunable is glibc's")
@pytest.mark.parametrize("kind", ["pipe", "udp"])
def test_a_small_read_maps_no_memory(kind, backend):
    # A fixed threshold: glibc raises its own when a larger block is freed, and then it hides what is asked for.
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072",
                   "PYLOOP_BACKEND": backend}
    child = subprocess.run([sys.executable, "-c", PROGRAM, kind, str(COUNT)], env=environment,
                           capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < COUNT // 2
