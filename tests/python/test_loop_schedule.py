"""call_soon, call_soon_threadsafe, call_later, call_at, time."""

import asyncio
import fractions
import random
import threading
import time

import pytest

import pyloop


def test_call_soon_is_first_in_first_out_with_any_number_of_arguments(loop):
    ran = []
    for count in range(12):
        loop.call_soon(lambda *args: ran.append(args), *range(count))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [tuple(range(count)) for count in range(12)]


def test_callbacks_scheduled_by_callbacks_wait_for_the_next_turn(loop):
    ran = []

    def first():
        ran.append("first")
        loop.call_soon(ran.append, "third")

    loop.call_soon(first)
    loop.call_soon(ran.append, "second")
    loop.call_soon(lambda: loop.call_soon(loop.stop))
    loop.run_forever()
    assert ran == ["first", "second", "third"]


def test_bad_arguments(loop):
    for method, leading in (("call_soon", ()), ("call_soon_threadsafe", ()),
                            ("call_later", (1,)), ("call_at", (1,))):
        call = getattr(loop, method)
        with pytest.raises(TypeError, match="'callback'"):
            call(*leading)
        with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
            call(*leading, print, nonsense=1)
    with pytest.raises(TypeError, match="^delay must not be None$"):
        loop.call_later(None, print)
    with pytest.raises(TypeError, match="^when cannot be None$"):
        loop.call_at(None, print)
    with pytest.raises(TypeError):
        loop.call_later("1", print)
    with pytest.raises(TypeError):
        loop.call_at("1", print)
    for call in (loop.call_later, loop.call_at):
        with pytest.raises(ValueError, match="NaN"):
            call(float("nan"), print)


def test_something_that_is_no_callable_is_reported(loop, reports):
    loop.set_debug(False)
    loop.call_soon(None)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert isinstance(reports.pop()["exception"], TypeError)


def test_time_is_the_monotonic_clock(loop):
    a = time.monotonic()
    b = loop.time()
    c = time.monotonic()
    assert a <= b <= c


@pytest.mark.parametrize("delay", [0.02, 0, -1, -float("inf"), 0.0001, True, fractions.Fraction(1, 50)])
def test_call_later_is_never_early(loop, delay):
    started = loop.time()
    ended = []

    def due():
        ended.append(loop.time())
        loop.stop()

    handle = loop.call_later(delay, due)
    assert handle.when() == pytest.approx(started + float(delay), abs=1)
    loop.run_forever()
    assert ended[0] >= max(started, handle.when())


def test_infinite_delay_never_comes(loop):
    handle = loop.call_later(float("inf"), print)
    assert handle.when() == float("inf")
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    handle.cancel()
    assert loop.call_later(1e300, print).when() > 1e299


def test_many_timers_fire_in_order(loop):
    random.seed(1)
    now = loop.time()
    fired = []
    delays = [random.randrange(20) / 1000 for _ in range(2000)]
    for index, delay in enumerate(delays):
        loop.call_at(now + delay, fired.append, (delay, index))
    loop.call_at(now + 0.03, loop.stop)
    loop.run_forever()
    assert fired == sorted((delay, index) for index, delay in enumerate(delays))


def test_overdue_timers_come_by_time_and_after_what_is_ready(loop):
    ran = []
    now = loop.time()
    loop.call_at(now - 1, ran.append, 3)
    loop.call_at(now - 2, ran.append, 2)
    loop.call_soon(ran.append, 1)
    loop.stop()
    loop.run_forever()
    assert ran == [1, 2, 3]


def test_cancelled_timers_leave_nothing(loop):
    handles = [loop.call_later(0.001 * (i % 10), pytest.fail) for i in range(1000)]
    for handle in handles:
        handle.cancel()
    assert not any(handle._scheduled for handle in handles)
    loop.call_later(0.02, loop.stop)
    loop.run_forever()


def test_a_due_timer_can_still_be_cancelled(loop):
    ran = []

    def first():
        second.cancel()
        ran.append(1)

    when = loop.time() + 0.01
    loop.call_at(when, first)
    second = loop.call_at(when, ran.append, 2)
    loop.call_at(when, loop.stop)
    loop.run_forever()
    assert ran == [1]


def test_call_soon_threadsafe_keeps_one_order(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_soon_threadsafe(ran.append, 2)
    loop.call_soon(ran.append, 3)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [1, 2, 3]


def test_call_soon_threadsafe_wakes_a_sleeping_loop(loop):
    thread = threading.Timer(0.05, loop.call_soon_threadsafe, (loop.stop,))
    thread.start()
    started = time.monotonic()
    loop.run_forever()
    assert time.monotonic() - started < 5
    thread.join()


def test_call_soon_threadsafe_from_many_threads(loop):
    per_thread, count = 2000, 4
    got = [[] for _ in range(count)]
    left = count

    def done():
        nonlocal left
        left -= 1
        if left == 0:
            loop.stop()

    def work(index):
        for i in range(per_thread):
            loop.call_soon_threadsafe(got[index].append, i)
        loop.call_soon_threadsafe(done)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        loop.call_soon(thread.start)
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert got == [list(range(per_thread))] * count


def test_call_soon_threadsafe_against_close(backend):
    for _ in range(20):
        loop = pyloop.Loop(backend=backend)
        errors = []

        def work():
            try:
                while True:
                    loop.call_soon_threadsafe(int)
            except RuntimeError as error:
                errors.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        for thread in threads:
            thread.join()
        assert errors == ["Event loop is closed"] * 2


def test_ping_pong_with_a_thread(loop):
    """Each post finds the loop asleep, or on its way there: the wake-up may leave with the GIL or without."""
    rounds = 2000
    wake = threading.Event()
    ran = []

    def answer():
        for number in range(rounds):
            wake.wait()
            wake.clear()
            loop.call_soon_threadsafe(step, number)

    def step(number):
        ran.append(number)
        if number == rounds - 1:
            loop.stop()
        else:
            wake.set()

    thread = threading.Thread(target=answer)
    thread.start()
    wake.set()
    loop.run_forever()
    thread.join()
    assert ran == list(range(rounds))


def test_run_in_executor_and_run_coroutine_threadsafe(run):
    async def main():
        loop = asyncio.get_running_loop()

        def work():
            future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, "slept"), loop)
            return future.result(10)

        assert await loop.run_in_executor(None, work) == "slept"

    run(main())


def test_time_patched_on_the_instance_is_followed(loop):
    now = 1000.0
    fired = []
    loop.call_later(500, fired.append, "real")
    loop.time = lambda: now
    loop.call_later(100, fired.append, "later")
    loop.call_at(1050, fired.append, "at")

    def turn(count):
        for _ in range(count):
            loop.stop()
            loop.run_forever()

    turn(3)
    assert fired == []
    now = 1060.0
    turn(3)
    assert fired == ["at"]
    now = 1e12
    turn(3)
    assert fired == ["at", "later", "real"]
    del loop.time
    assert abs(loop.time() - time.monotonic()) < 60


def test_time_of_a_subclass_is_followed(backend):
    class Slow(pyloop.Loop):
        def time(self):
            return super().time() / 2

    loop = Slow(backend=backend)
    started = time.monotonic()
    when = loop.time() + 0.02
    ended = []

    def due():
        ended.append(loop.time())
        loop.stop()

    loop.call_at(when, due)
    loop.run_forever()
    loop.close()
    assert ended[0] >= when
    assert time.monotonic() - started >= 0.04


def test_failing_clock_is_reported(loop):
    loop.time = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        loop.call_later(1, print)
    with pytest.raises(ZeroDivisionError):
        loop.run_forever()
    del loop.time
    assert not loop.is_running()


def test_handles_are_freed(loop):
    class Callback:
        alive = 0

        def __init__(self):
            Callback.alive += 1

        def __call__(self, *args):
            pass

        def __del__(self):
            Callback.alive -= 1

    for _ in range(50):
        loop.call_soon(Callback())
        loop.call_later(0, Callback(), 1, 2, 3, 4, 5, 6)
        loop.call_later(1000, Callback()).cancel()
        loop.call_soon(Callback()).cancel()
        loop.call_soon_threadsafe(Callback())
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert Callback.alive == 0
