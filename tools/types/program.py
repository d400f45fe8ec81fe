"""A program as a user writes it; `mypy --strict` must have nothing to say about it. Not run."""

import asyncio

import pyloop


async def answer(question: str) -> int:
    await asyncio.sleep(0)
    return len(question)


async def main() -> int:
    loop = asyncio.get_running_loop()
    if isinstance(loop, pyloop.Loop) and loop.backend is not None:
        print(loop.backend.upper())
    task = loop.create_task(answer("why"))
    handle: asyncio.TimerHandle = loop.call_later(1.0, print, "late")
    handle.cancel()
    return await task


result: int = pyloop.run(main(), backend="epoll")
page: str = pyloop.metrics.prometheus(pyloop.metrics.snapshot())
same: int = pyloop.run(main(), loop_factory=pyloop.new_event_loop)
with asyncio.Runner(loop_factory=lambda: pyloop.new_event_loop(native_tasks=False)) as runner:
    other: int = runner.run(main())
