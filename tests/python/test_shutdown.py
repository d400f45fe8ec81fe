"""The interpreter ends while a loop is open, has work, or runs in another thread: no crash, no hang, no noise."""

import pytest
from process_kit import environment, run_python

START = """
import asyncio, atexit, gc, os, signal, socket, sys, threading, warnings
import pyloop
loop = pyloop.new_event_loop()
"""

PROGRAMS = {
    "open loop": "loop.run_until_complete(asyncio.sleep(0))",
    "never ran": "loop.call_soon(print, 'never'); loop.call_later(1, print, 'never')",
    "in a cycle": "loop.me = loop; loop.call_soon(loop.stop); loop.call_later(5, loop.stop); del loop",
    "signal handler": "loop.add_signal_handler(signal.SIGUSR1, print); loop.run_until_complete(asyncio.sleep(0))",
    "async generator": """
async def numbers():
    try:
        yield 1
    finally:
        print('never')
generator = numbers()
async def main():
    async for _ in generator:
        break
loop.run_until_complete(main())
""",
    "connections": """
async def main():
    server = await asyncio.start_server(lambda r, w: kept.append(w), '127.0.0.1', 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b'x' * 1000000)
    kept.extend((server, reader, writer))
    await asyncio.sleep(0.01)
kept = []
loop.run_until_complete(main())
""",
    "pipe, datagrams and a watched descriptor": """
async def main():
    read, write = os.pipe()
    kept.append(await loop.connect_read_pipe(asyncio.Protocol, open(read, 'rb')))
    kept.append(await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ('127.0.0.1', 0)))
    a, b = socket.socketpair()
    loop.add_reader(a, print)
    kept.append((a, b))
kept = []
loop.run_until_complete(main())
""",
    "atexit runs the loop": """
async def last():
    await asyncio.sleep(0.001)
    print('last')
atexit.register(lambda: loop.run_until_complete(last()))
""",
    "atexit makes a loop": """
async def last():
    await asyncio.sleep(0.001)
    print('last')
atexit.register(lambda: pyloop.run(last()))
loop.close()
""",
    "exit in a callback": "loop.call_soon(sys.exit, 0); loop.call_later(10, print); loop.run_forever()",
    "exit in a task": """
async def main():
    await asyncio.sleep(0)
    sys.exit(0)
loop.run_until_complete(main())
""",
    "a daemon thread runs a loop": """
ready = threading.Event()
def work():
    loop.call_soon(ready.set)
    loop.run_forever()
threading.Thread(target=work, daemon=True).start()
ready.wait()
""",
    "a daemon thread runs a busy loop": """
ready = threading.Event()
def spin():
    ready.set()
    loop.call_soon(spin)
def work():
    loop.call_soon(spin)
    loop.run_forever()
threading.Thread(target=work, daemon=True).start()
ready.wait()
""",
    "a daemon thread calls a loop": """
ready = threading.Event()
def work():
    while True:
        loop.call_soon_threadsafe(int)
        ready.set()
threading.Thread(target=work, daemon=True).start()
ready.wait()
loop.run_until_complete(asyncio.sleep(0.01))
""",
    "the default executor is used": "loop.run_until_complete(loop.run_in_executor(None, int))",
    "objects use the loop while they die": """
class Last:
    def __del__(self):
        try:
            self.loop.call_soon(print, 'never')
            self.loop.call_later(1, print)
            self.loop.create_future()
            self.loop.stop()
            self.loop.close()
        except Exception:
            pass
keep = Last()
keep.loop = loop
keep.cycle = keep
sys.keep = keep
""",
}

PENDING = """
async def forever(number):
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        number += 1
async def main():
    kept.extend(asyncio.ensure_future(forever(i)) for i in range(3))
    await asyncio.sleep(0)
kept = []
loop.run_until_complete(main())
"""


def end(tmp_path, backend, program, *options):
    done = run_python(tmp_path, *options, "-c", START + program, env=environment(PYLOOP_BACKEND=backend))
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done


@pytest.mark.parametrize("name", PROGRAMS)
def test_end(tmp_path, backend, name):
    done = end(tmp_path, backend, PROGRAMS[name])
    assert done.stderr == ""
    assert done.stdout == ("last\n" if "atexit" in name else "")


@pytest.mark.parametrize("how", ["kept", "dropped", "cycle"])
def test_end_with_pending_tasks(tmp_path, backend, how):
    """asyncio's report of a pending task that was destroyed is all there is to see."""
    program = PENDING + {"kept": "", "dropped": "kept.clear(); del loop; gc.collect()",
                         "cycle": "kept.append(kept); sys.kept = kept; del kept, loop"}[how]
    done = end(tmp_path, backend, program)
    assert done.stdout == ""
    for line in done.stderr.splitlines():
        assert line.startswith(("Task was destroyed but it is pending!", "task: <Task pending")), done.stderr


def test_end_with_resource_warnings(tmp_path, backend):
    """With -X dev the open loop is named, once."""
    done = end(tmp_path, backend, "loop.run_until_complete(asyncio.sleep(0))", "-X", "dev")
    assert done.stderr.count("ResourceWarning: unclosed event loop") == 1
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
