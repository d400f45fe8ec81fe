import asyncio
import sys
from typing import TypeVar

_T = TypeVar("_T")

__all__ = (
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "QueueShutDown",
    "Semaphore",
)

if sys.version_info >= (3, 13):
    from asyncio import QueueShutDown as QueueShutDown
else:
    class QueueShutDown(Exception): ...

class Lock(asyncio.Lock):
    def __init__(self) -> None: ...

class Event(asyncio.Event):
    def __init__(self) -> None: ...

class Condition(asyncio.Condition):
    def __init__(self, lock: Lock | None = None) -> None: ...

class Semaphore(asyncio.Semaphore):
    def __init__(self, value: int = 1) -> None: ...

class BoundedSemaphore(Semaphore, asyncio.BoundedSemaphore):
    def __init__(self, value: int = 1) -> None: ...

class Barrier(asyncio.Barrier):
    def __init__(self, parties: int) -> None: ...

class Queue(asyncio.Queue[_T]):
    def __init__(self, maxsize: int = 0) -> None: ...
    def shutdown(self, immediate: bool = False) -> None: ...

class PriorityQueue(Queue[_T], asyncio.PriorityQueue[_T]): ...
class LifoQueue(Queue[_T], asyncio.LifoQueue[_T]): ...
