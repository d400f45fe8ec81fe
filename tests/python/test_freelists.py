"""The memory of dead handles, futures and tasks is used again: what is made from it is new in every way.

On free-threaded builds each run of a loop has lists of its own (src/python/freelist.h), so most tests
take other threads, the garbage collector and the end of the run into the story.
"""

import asyncio
import gc
import sys
import sysconfig
import threading
import weakref

import parallel_kit
import pytest

import pyloop

IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
MANY = 300


def nothing(*args):
    pass


def in_thread(function, *args):
    """What the function returns or raises in a new thread."""
    results = []

    def run():
        try:
            results.append(function(*args))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def check_new(future):
    """Nothing is left of what was in this memory before."""
    assert not future.done() and not future.cancelled()
    assert future._callbacks is None and future._source_traceback is None
    assert future._asyncio_future_blocking is False and future._log_traceback is False
    assert not hasattr(future, "mark")
    assert weakref.getweakrefcount(future) == 0
    assert gc.is_tracked(future)


async def finished(value):
    return value


async def use(loop, count=MANY):
    """Handles, futures and tasks made, used and dropped; some of each are alive at the same time."""
    seen = []
    futures = [loop.create_future() for _ in range(count)]
    assert len({id(future) for future in futures}) == count
    for number, future in enumerate(futures):
        check_new(future)
        loop.call_soon(future.set_result, number)
        loop.call_soon(seen.append, number)
    assert await asyncio.gather(*futures) == list(range(count))
    assert seen == list(range(count))
    tasks = [loop.create_task(finished(number)) for number in range(count)]
    assert await asyncio.gather(*tasks) == list(range(count))


def test_memory_is_used_again(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        where = id(future)
        del future
        again = loop.create_future()
        assert id(again) == where
        handle = loop.call_soon(nothing)
        where = id(handle)
        del handle
        await asyncio.sleep(0)
        assert id(loop.call_soon(nothing)) == where
        timer = loop.call_later(60, nothing)
        where = id(timer)
        timer.cancel()
        del timer
        timer = loop.call_later(60, nothing)
        assert id(timer) == where
        timer.cancel()

    run(main())


def test_a_new_future_has_no_past(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        usual = sys.getrefcount(future)
        for end in (lambda future: future.set_result(1), lambda future: future.cancel("why"), nothing,
                    lambda future: (future.set_exception(ValueError()), future.exception())):
            futures = [loop.create_future() for _ in range(MANY)]
            for future in futures:
                future.mark = 1
                future.add_done_callback(nothing)
                future.add_done_callback(nothing)
                end(future)
            references = [weakref.ref(future) for future in futures[::2]]
            await asyncio.sleep(0)
            del futures, future
            assert [reference() for reference in references] == [None] * len(references)
            futures = [loop.create_future() for _ in range(MANY)]
            while futures:
                future = futures.pop()
                check_new(future)
                assert sys.getrefcount(future) == usual

    run(main())


def test_a_new_handle_has_no_past(run):
    async def main():
        loop = asyncio.get_running_loop()
        for count in (0, 4, 9):
            handles = [loop.call_soon(nothing, *range(count)) for _ in range(MANY)]
            references = [weakref.ref(handle) for handle in handles[::2]]
            for handle in handles[::3]:
                handle.cancel()
            await asyncio.sleep(0)
            del handles, handle
            assert [reference() for reference in references] == [None] * len(references)
            handles = [loop.call_soon(nothing) for _ in range(MANY)]
            for handle in handles:
                assert not handle.cancelled() and handle._args == () and handle._callback is nothing
                assert weakref.getweakrefcount(handle) == 0
            await asyncio.sleep(0)

    run(main())


def test_garbage_collection_does_not_see_what_is_kept(run):
    async def main():
        loop = asyncio.get_running_loop()
        alive = [loop.create_future() for _ in range(10)]
        kind = type(alive[0])
        before = sum(type(item) is kind for item in gc.get_objects())
        futures = [loop.create_future() for _ in range(MANY)]
        handles = [loop.call_soon(nothing) for _ in range(MANY)]
        await asyncio.sleep(0)
        del futures, handles
        for _ in range(3):
            gc.collect()
            assert sum(type(item) is kind for item in gc.get_objects()) == before
            in_thread(gc.collect)
            await use(loop)
        for future in alive:
            check_new(future)

    run(main())


def test_cycles_are_collected_and_memory_used_on(run):
    async def main():
        loop = asyncio.get_running_loop()
        for collect in (gc.collect, lambda: in_thread(gc.collect)):
            references = []
            for _ in range(MANY):
                future = loop.create_future()
                future.mark = future
                references.append(weakref.ref(future))
            del future
            collect()
            assert all(reference() is None for reference in references)
            await use(loop)

    run(main())


def test_a_future_kept_by_the_exception_handler_is_not_used_again(new_loop):
    loop = new_loop()
    saved = []
    loop.set_exception_handler(lambda _, context: saved.append(context["future"]))

    async def main():
        for number in range(10):
            loop.create_future().set_exception(ValueError(number))
        assert len(saved) == 10
        await use(loop)
        others = [loop.create_future() for _ in range(MANY)]
        assert not {id(future) for future in saved} & {id(future) for future in others}
        for number, future in enumerate(saved):
            assert future.exception().args == (number,)
        saved.clear()
        await use(loop)

    loop.run_until_complete(main())
    assert saved == []


def test_objects_that_die_in_another_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(5):
            parcel = [loop.create_future() for _ in range(MANY)]
            parcel += [loop.call_later(60, nothing) for _ in range(MANY)]
            for handle in parcel[MANY:]:
                handle.cancel()
            del handle
            references = [weakref.ref(item) for item in parcel[::7]]
            in_thread(parcel.clear)
            await use(loop)
            assert all(reference() is None for reference in references)

    run(main())


def test_objects_that_were_made_in_another_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(5):
            parcel = in_thread(lambda: [loop.create_future() for _ in range(MANY)])
            seen = []
            in_thread(lambda: parcel.extend(loop.call_soon_threadsafe(seen.append, 1) for _ in range(MANY)))
            while len(seen) < MANY:
                await asyncio.sleep(0)
            for future in parcel[:MANY]:
                check_new(future)
            del future
            parcel.clear()
            gc.collect()
            await use(loop)

    run(main())


def test_a_collecting_thread_beside_the_loop(run):
    async def main():
        loop = asyncio.get_running_loop()
        collections = []
        is_over = threading.Event()

        def collect():
            while not is_over.is_set():
                collections.append(gc.collect())

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            while len(collections) < 20:
                await use(loop, 50)
        finally:
            is_over.set()
            thread.join()

    run(main())


def test_a_loop_that_is_run_by_one_thread_after_the_other(new_loop):
    loop = new_loop()
    kept = []

    async def main():
        await use(loop)
        kept.extend(loop.create_future() for _ in range(MANY))

    for _ in range(4):
        in_thread(loop.run_until_complete, main())
        gc.collect()
        for future in kept[::2]:
            check_new(future)
        del kept[::2], future
    loop.run_until_complete(use(loop))
    kept.clear()
    loop.run_until_complete(use(loop))


def test_objects_outlive_their_loop(new_loop):
    loop = new_loop()
    kept = []

    async def main():
        kept.extend(loop.create_future() for _ in range(MANY))
        kept.extend(loop.call_later(60, nothing) for _ in range(MANY))
        kept.extend(loop.create_task(finished(1)) for _ in range(MANY))
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    loop.close()
    del loop
    gc.collect()
    for future in kept[:MANY]:
        check_new(future)
    assert {task.result() for task in kept[2 * MANY:]} == {1}
    del future, kept[::2]
    in_thread(kept.clear)


def test_views_share_objects(backend):
    kept = []

    async def strand():
        loop = asyncio.get_running_loop()
        mine = [loop.create_future() for _ in range(MANY)]
        kept.extend(mine[::2])
        await use(loop)
        return mine[1::2]

    async def main():
        loop = asyncio.get_running_loop()
        for number in (0, 1):
            foreign = await parallel_kit.there(strand(), number)
            del foreign
            await use(loop)
            await pyloop.spawn(use(loop))
            kept.extend(loop.create_future() for _ in range(MANY))
            await parallel_kit.there(drop_half(), number)
        gc.collect()
        await asyncio.gather(*[pyloop.spawn(strand()) for _ in range(6)])

    async def drop_half():
        del kept[::2]
        gc.collect()
        await use(asyncio.get_running_loop())

    with parallel_kit.parallel_runner(backend, workers=3) as (runner, reports):
        runner.run(main())
    assert reports == []
    for future in kept:
        check_new(future)
    del future
    kept.clear()
    gc.collect()


@pytest.mark.skipif(not IS_FREE_THREADED, reason="with a GIL the lists belong to the module")
def test_the_end_of_a_run_gives_the_memory_back(new_loop):
    async def main():
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(1000)]
        handles = [loop.call_soon(nothing) for _ in range(1000)]
        await asyncio.sleep(0)
        del futures, handles

    first, second = new_loop(), new_loop()
    first.run_until_complete(main())
    gc.collect()
    before = sys.getallocatedblocks()
    second.run_until_complete(main())
    gc.collect()
    assert sys.getallocatedblocks() - before < 200
