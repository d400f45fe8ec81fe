"""A WebSocket client that obeys as bench/c/load.c does: ``python -m bench.servers.ws_load PORT CONNECTIONS SIZE``.

Prints "ready" once every connection was served; then "run SECONDS" or "count MESSAGES" on standard
input, answered with the same JSON. One message in flight on each connection (RFC 6455: binary
frames, masked with zeros).
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys
import time

HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def _length(size: int, mask: int) -> bytes:
    """The second byte of a frame's head and what follows it (RFC 6455, 5.2)."""
    if size < 126:
        return bytes([mask | size])
    return bytes([mask | 126]) + struct.pack("!H", size)


class Connection:
    def __init__(self, port: int, size: int):
        payload = b"x" * size
        self.frame = b"\x82" + _length(size, 0x80) + bytes(4) + payload
        self.expected = b"\x82" + _length(size, 0) + payload
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(HANDSHAKE.encode())
        self.got = b""
        while b"\r\n\r\n" not in self.got:
            self.got += self._receive()
        if not self.got.startswith(b"HTTP/1.1 101 "):
            sys.exit(f"ws_load: refused: {self.got!r}")
        self.got = b""
        self.served = 0

    def _receive(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            sys.exit("ws_load: the server closed a connection")
        return data

    def send(self) -> None:
        self.sent_at = time.monotonic_ns()
        self.sock.sendall(self.frame)

    def receive(self) -> bool:
        """Whether the answer is complete."""
        self.got += self._receive()
        if len(self.got) < len(self.expected):
            return False
        if self.got != self.expected:
            sys.exit(f"ws_load: wrong answer: {self.got[:40]!r}")
        self.got = b""
        self.served += 1
        return True


def run(connections: list[Connection], seconds: float = 0.0, count: int = 0) -> dict:
    """For so long, or so many messages."""
    selector = selectors.EpollSelector()
    for connection in connections:
        connection.served = 0
        selector.register(connection.sock, selectors.EVENT_READ, connection)
    start = time.monotonic_ns()
    end = start + int(seconds * 1e9)
    to_start = count if count else sys.maxsize
    times: list[int] = []
    in_flight = 0
    for connection in connections[:to_start]:
        connection.send()
        in_flight += 1
    to_start -= in_flight
    while in_flight:
        for key, _ in selector.select():
            connection = key.data
            if not connection.receive():
                continue
            now = time.monotonic_ns()
            times.append(now - connection.sent_at)
            if to_start and (count or now < end):
                connection.send()
                to_start -= 1
            else:
                in_flight -= 1
    wall = time.monotonic_ns() - start
    selector.close()
    times.sort()
    at = {f"{name}_ns": times[len(times) * part // 1000] for name, part in
          (("p50", 500), ("p99", 990), ("p999", 999))}  # fmt: skip
    return {"messages": len(times), "wall_ns": wall, "connections": len(connections),
            "bytes": len(times) * len(connections[0].expected),  # each was compared as a whole
            "connections_served": sum(c.served > 0 for c in connections), **at}  # fmt: skip


def main() -> None:
    port, number, size = map(int, sys.argv[1:])
    connections = [Connection(port, size) for _ in range(number)]
    run(connections, count=number)
    print("ready", flush=True)
    for line in sys.stdin:
        verb, value = line.split()
        result = run(connections, seconds=float(value)) if verb == "run" else run(
            connections, count=int(value))  # fmt: skip
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
