"""C threads that post to native tasks and cancel them while their loop is closed (tests/extension/posting.c).

What touches memory or descriptors that are gone is seen by the steps asan/python and tsan (tests/stress/stress_end.c).
"""

import asyncio

import pytest

from extension_kit import FOLDER, compile_extension, load, needs_compiler
from parallel_kit import there

import pyloop

ROUNDS = 25
TARGETS = 3
TIMEOUT = 20

pytestmark = needs_compiler


@pytest.fixture(scope="session")
def posting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("posting")
    return load(compile_extension(folder, FOLDER / "posting.c", "pyloop_posting"), "pyloop_posting")


@pytest.mark.parametrize("is_parallel", [False, True])
@pytest.mark.parametrize("has_future", [False, True])
def test_threads_post_and_cancel_while_the_loop_is_closed(backend, posting, has_future, is_parallel):
    """Each message is taken or dropped, each task ends once, and close() returns."""
    async def start(cancel_after):
        return [posting.start(has_future, cancel_after * number) for number in range(TARGETS)]

    async def main(number):
        started = await start(number)
        if is_parallel:
            started += await there(start(number))
        return started

    for number in range(ROUNDS):
        loop = pyloop.Loop(backend=backend, **({"parallel": True, "workers": 2} if is_parallel else {}))
        try:
            started = loop.run_until_complete(main(number))
            for _, target in started:
                posting.await_begin(target)
        finally:
            loop.close()
        for future, target in started:
            posted, taken, dropped, ended = posting.finish(target)
            assert (taken + dropped, ended) == (posted, 1)
            assert future is None or not future.done() or future.result() is None


def test_threads_post_and_cancel_while_the_loop_runs(run, posting):
    """A cancelled task ends; what comes later is dropped with the last reference."""
    async def main():
        future, target = posting.start(True, 10)
        assert await asyncio.wait_for(future, TIMEOUT) is None
        return await asyncio.to_thread(posting.finish, target)

    posted, taken, dropped, ended = run(main())
    assert (taken + dropped, ended) == (posted, 1)
    assert dropped > 0
