"""A Python thread that computes without end beside the server, on demand.

start() makes the process obey lines on standard input: "spin CORE" and "rest".
"""

from __future__ import annotations

import os
import threading


class Neighbour:
    """One thread waits for commands; the one that spins lives from "spin" to "rest"."""

    def __init__(self):
        self._is_spinning = False
        self._thread = None

    def _spin(self, core: int):
        os.sched_setaffinity(0, {core})  # this thread only
        number = 0
        while self._is_spinning:
            number += 1

    def obey(self, command: str, *cores: str) -> None:
        self._is_spinning = command == "spin"
        if self._is_spinning:
            self._thread = threading.Thread(target=self._spin, args=map(int, cores), daemon=True)
            self._thread.start()
        elif self._thread is not None:
            self._thread.join()
            self._thread = None

    def listen(self) -> None:
        # Not sys.stdin: the interpreter could not end while this thread holds its lock.
        while commands := os.read(0, 1024):
            for line in commands.decode().splitlines():
                self.obey(*line.split())


def start() -> None:
    threading.Thread(target=Neighbour().listen, daemon=True).start()
