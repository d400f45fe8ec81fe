"""The __dict__ of futures, tasks and transports, which nearly all of them leave empty."""

import asyncio
import copy
import dis
import gc
import io
import sys

import pytest

import pyloop
from pyloop import _core


async def pairs(kind):
    """Two instances of a kind."""
    loop = asyncio.get_running_loop()
    if kind == "future":
        return loop.create_future(), loop.create_future()
    if kind == "task":
        tasks = [loop.create_task(asyncio.sleep(0)) for _ in range(2)]
        await asyncio.gather(*tasks)
        return tasks
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    where = server.sockets[0].getsockname()
    found = [(await loop.create_connection(asyncio.Protocol, *where))[0] for _ in range(2)]
    server.close()
    return found


METHODS = {"future": "done", "task": "done", "transport": "is_closing"}


@pytest.fixture(params=METHODS)
def kind(request):
    return request.param


def run_on_pair(kind, check):
    async def main():
        one, other = await pairs(kind)
        check(one, other)
        if kind == "transport":
            one.abort()
            other.abort()

    pyloop.run(main())


def test_attributes_are_of_one_instance_only(kind):
    def check(one, other):
        one.mark = 1
        assert vars(one) == {"mark": 1} and vars(other) == {} and not hasattr(other, "mark")
        vars(other)["other"] = 2
        assert other.other == 2 and not hasattr(one, "other")
        del one.mark
        with pytest.raises(AttributeError):
            del one.mark
        assert vars(one) == {} and vars(other) == {"other": 2}
        one.__dict__ = {"given": 3}
        assert one.given == 3 and not hasattr(other, "given")

    run_on_pair(kind, check)


def test_an_instance_may_have_a_method_of_its_own(kind):
    name = METHODS[kind]
    source = f"def call(x):\n return x.{name}()\n"
    scope = {}
    exec(source, scope)
    call = scope["call"]

    def check(one, other):
        for _ in range(100):  # the interpreter learns how to call it
            assert call(one) is call(other)
        setattr(one, name, lambda: "own")
        assert call(one) == "own" and call(other) != "own"
        delattr(one, name)
        assert call(one) is call(other)

    run_on_pair(kind, check)


def test_attributes_of_the_type_make_no_dict():
    async def main():
        future = asyncio.get_running_loop().create_future()
        size = sum(map(sys.getsizeof, gc.get_referents(future)))
        future._asyncio_future_blocking = True
        assert future._asyncio_future_blocking is True
        with pytest.raises(AttributeError):
            future._state = "DONE"
        future._asyncio_future_blocking = False
        assert sum(map(sys.getsizeof, gc.get_referents(future))) == size

    pyloop.run(main())


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="how CPython 3.11 finds methods")
def test_methods_are_found_fast_on_3_11(kind):
    scope = {}
    exec(f"def call(x):\n return x.{METHODS[kind]}()\n", scope)

    def check(one, other):
        for _ in range(100):
            scope["call"](one)
            scope["call"](other)
        text = io.StringIO()
        dis.dis(scope["call"], adaptive=True, file=text)
        assert "LOAD_METHOD_WITH_DICT" in text.getvalue()

    run_on_pair(kind, check)


def test_subclasses_have_it_too():
    class Named(_core.Future):
        def __init__(self, name, **options):
            super().__init__(**options)
            self.name = name

        def __setattr__(self, name, value):
            super().__setattr__(name, value)

    async def main():
        one, other = Named("one"), Named("other")
        assert (one.name, other.name) == ("one", "other")
        assert copy.copy(vars(one)) == {"name": "one"}

    pyloop.run(main())
