"""loop.metrics(), and with it what issue 5 promises of wake-ups and fairness."""

import asyncio
import concurrent.futures
import gc
import itertools
import os
import re
import socket
import threading
import time

import pytest

import pyloop

POSTS = 25_000
THREADS = 4
CIRCULATING = 100_000


def worker_of(loop):
    (worker,) = loop.metrics()["workers"]
    return worker


def test_counts_what_happened(loop, run):
    sampled = loop.metrics()["sampled"]

    async def main():
        before = worker_of(loop)
        for _ in range(100):
            await asyncio.sleep(0)
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            for _ in range(10):
                receiving = asyncio.ensure_future(loop.sock_recv(left, 10))
                await asyncio.sleep(0)
                await loop.sock_sendall(right, b"x")
                assert await receiving == b"x"
        await asyncio.sleep(0.001)
        after = worker_of(loop)
        grown = {name: after[name] - before[name] for name in before if isinstance(before[name], int)}
        assert grown["turns"] >= 110
        assert grown["callbacks"] >= 110
        assert grown["events"] >= 10
        assert grown["parks"] >= 1
        assert grown["gil_acquisitions"] == grown["parks"] - grown["lingered"]
        assert grown["waits"] >= grown["parks"]
        assert sum(after["turn_durations"]) - sum(before["turn_durations"]) in range(
            grown["turns"] // sampled - 1, grown["turns"] // sampled + 2)

    loop.run_until_complete(main())
    assert loop.metrics()["backend"] == loop.backend
    assert loop.metrics()["parallel"] is False
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.metrics()


def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def grown(before, after, name):
    return [new - old for old, new in zip(before[name], after[name], strict=True)]


# Buckets of what takes 16.8 ms and longer. No test says how short something is: the machine may be busy.
LONG = slice(15, None)


def test_a_long_callback_shows_among_short_ones(loop):
    """By its own length, and every callback of a timed turn counts once."""
    turns = 2 * loop.metrics()["sampled"] + 2

    def turn():
        nonlocal turns
        turns -= 1
        if turns == 0:
            loop.stop()
        for _ in range(70):
            loop.call_soon(int)
        loop.call_soon(busy, 0.02)
        for _ in range(28):
            loop.call_soon(int)
        loop.call_soon(turn)

    loop.call_soon(turn)
    loop.run_forever()
    worker = worker_of(loop)
    assert sum(worker["turn_durations"]) == sum(worker["turn_durations"][LONG]) == 2
    assert sum(worker["callback_durations"]) == 200
    assert sum(worker["callback_durations"][LONG]) >= 2
    assert worker["callback_durations_ns"] >= 0.04e9


def test_a_long_event_shows(loop):
    """The callback of a descriptor is one."""
    left, right = os.pipe()
    seen = 0

    def readable():
        nonlocal seen
        seen += 1
        busy(0.02)
        if seen == 2 * loop.metrics()["sampled"]:
            loop.stop()

    loop.add_reader(left, readable)
    os.write(right, b"x")
    loop.run_forever()
    loop.remove_reader(left)
    os.close(left)
    os.close(right)
    worker = worker_of(loop)
    assert sum(worker["turn_durations"]) >= 1
    assert sum(worker["callback_durations"][LONG]) >= 1


def test_ready_callbacks_wait_for_each_other(loop):
    """Ten that take 2 ms each and schedule themselves: each waits for nine others."""
    turns = 2 * loop.metrics()["sampled"] + 2
    left = turns * 10

    def circulate():
        nonlocal left
        left -= 1
        if left == 0:
            loop.stop()
        loop.call_soon(circulate)
        busy(0.002)

    for _ in range(10):
        loop.call_soon(circulate)
    loop.run_forever()
    worker = worker_of(loop)
    assert worker["callbacks"] == turns * 10
    assert sum(worker["ready_delays"]) == sum(worker["ready_delays"][LONG]) == 20
    assert worker["ready_delays_ns"] >= 20 * 0.018e9
    assert "queue_delays" not in worker


def test_what_waits_between_two_runs_has_no_delay(loop):
    """A loop that does not run delays nothing."""
    turns = loop.metrics()["sampled"]

    def turn():
        nonlocal turns
        turns -= 1
        loop.call_soon(turn if turns else loop.stop)
        if turns == 0:
            loop.stop()  # after the timed turn, and before what was scheduled in it

    loop.call_soon(turn)
    loop.run_forever()
    assert sum(worker_of(loop)["turn_durations"]) == 1
    busy(0.02)
    loop.run_forever()
    assert sum(worker_of(loop)["ready_delays"]) == 0


def test_parallel_mode_times_callbacks_too(backend):
    """Long steps of tasks in the first worker, which wait for each other."""
    async def circulate(turns):
        for _ in range(turns):
            busy(0.02)
            await asyncio.sleep(0)

    async def main():
        loop = asyncio.get_running_loop()
        before = loop.metrics()["workers"][0]
        await asyncio.gather(*[circulate(loop.metrics()["sampled"] + 2) for _ in range(2)])
        return before, loop.metrics()["workers"][0]

    before, after = pyloop.run(main(), parallel=True, workers=2, backend=backend)
    assert sum(grown(before, after, "turn_durations")) >= 1
    assert sum(grown(before, after, "callback_durations")[LONG]) >= 1
    assert sum(grown(before, after, "ready_delays")[LONG]) >= 1


def test_parallel_workers_count_for_themselves(backend):
    async def strand():
        for _ in range(50):
            await asyncio.sleep(0)

    async def main():
        for _ in range(10):
            await asyncio.gather(*[pyloop.spawn(strand()) for _ in range(20)])
        return asyncio.get_running_loop().metrics()

    metrics = pyloop.run(main(), parallel=True, workers=2, backend=backend)
    assert metrics["parallel"] is True
    workers = metrics["workers"]
    assert len(workers) == 2
    assert sum(worker["strands_ended"] for worker in workers) == 200
    assert sum(worker["callbacks"] for worker in workers) >= 200 * 50
    assert sum(sum(worker["queue_delays"]) for worker in workers) >= 200


def test_a_burst_of_posts_costs_few_wakes(loop):
    """100,000 callbacks from 4 threads. The threads post while the loop sleeps, runs and falls asleep."""
    ran = 0

    def count():
        nonlocal ran
        ran += 1
        if ran == POSTS * THREADS:
            loop.stop()

    def post():
        start.wait()
        for _ in range(POSTS):
            loop.call_soon_threadsafe(count)

    start = threading.Barrier(THREADS)
    threads = [threading.Thread(target=post) for _ in range(THREADS)]
    before = worker_of(loop)
    for thread in threads:
        thread.start()
    loop.run_forever()
    for thread in threads:
        thread.join()
    after = worker_of(loop)
    assert ran == POSTS * THREADS
    written = after["wakes_written"] - before["wakes_written"]
    suppressed = after["wakes_suppressed"] - before["wakes_suppressed"]
    assert written <= after["parks"] - before["parks"] + 1  # one for each sleep at most
    assert written + suppressed <= POSTS * THREADS
    # 0 to 4 as a rule. A loop that outruns the threads must not fall asleep between their posts each time.
    assert written <= 100


def test_io_is_served_while_callbacks_circulate(loop):
    """100,000 callbacks that schedule themselves anew: a descriptor is looked at in every turn."""
    turns = 0
    answers = []
    left, right = os.pipe()

    def circulate():
        loop.call_soon(circulate)

    def mark():
        nonlocal turns
        turns += 1
        if turns in (2, 4, 6):
            os.write(right, b"x")
        if turns == 8:
            loop.stop()
        loop.call_soon(mark)

    loop.add_reader(left, lambda: answers.append((turns, os.read(left, 10))))
    for _ in range(CIRCULATING):
        loop.call_soon(circulate)
    loop.call_soon(mark)
    loop.run_forever()
    loop.remove_reader(left)
    os.close(left)
    os.close(right)
    # io_uring hears of a ready descriptor by its next look at the ring.
    assert [b for _, b in answers] == [b"x"] * 3
    assert all(turn - written <= 1 for (turn, _), written in zip(answers, (2, 4, 6), strict=True)), answers


# ---- pyloop.metrics


def parse(text):
    """{metric: (type, {(sample, labels): value})} of Prometheus' text format 0.0.4; nothing else is allowed."""
    families, name = {}, None
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in families and len(line.split()) > 3
        elif line.startswith("# TYPE "):
            assert line.split()[2] == name
            families[name] = (line.split()[3], {})
        else:
            sample, labels, value = re.fullmatch(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\]*",?)*)\})? (\S+)', line).groups()
            kind, samples = families[name]
            ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert sample in [name + end for end in ends]
            key = sample, frozenset(re.findall(r'([a-z]+)="([^"]*)"', labels or ""))
            assert key not in samples, "twice"
            samples[key] = float(value)
    return families


def numbers():
    return [loop["loop"] for loop in pyloop.metrics.snapshot()]


def test_snapshot_has_the_open_loops(new_loop, backend):
    before = numbers()
    first, second = new_loop(), new_loop()
    first.run_until_complete(asyncio.sleep(0))
    found = pyloop.metrics.snapshot()
    assert numbers()[:-2] == before == sorted(before)
    assert [loop["backend"] for loop in found[-2:]] == [backend, backend]
    assert found[-2]["workers"][0]["turns"] > 0 == found[-1]["workers"][0]["turns"]
    first.close()
    assert numbers() == [*before, found[-1]["loop"]]
    second.close()
    assert numbers() == before


def test_snapshot_keeps_no_loop_alive(backend):
    before = numbers()
    loop = pyloop.Loop(backend=backend)
    with pytest.warns(ResourceWarning):
        del loop
        gc.collect()
    assert numbers() == before


def test_prometheus_says_what_metrics_say(new_loop, backend):
    loop = new_loop()

    async def main():
        for _ in range(50):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    (found,) = [one for one in pyloop.metrics.snapshot() if one["loop"] == numbers()[-1]]
    families = parse(pyloop.metrics.prometheus([found]))
    (worker,) = found["workers"]
    labels = frozenset({("loop", str(found["loop"])), ("backend", backend), ("worker", "0")})
    assert families["pyloop_loops"] == ("gauge", {("pyloop_loops", frozenset()): 1})
    for key, value in worker.items():
        if isinstance(value, int) and not key.endswith("_ns"):
            assert families.pop(f"pyloop_{key}_total") == ("counter", {(f"pyloop_{key}_total", labels): value})
    for key, name in (("turn_durations", "turn_duration"), ("callback_durations", "callback_duration"),
                      ("ready_delays", "ready_delay"), ("gil_waits", "gil_wait")):
        name = f"pyloop_{name}_seconds"
        kind, samples = families.pop(name)
        assert kind == "histogram"
        assert samples[f"{name}_count", labels] == sum(worker[key])
        assert samples[f"{name}_sum", labels] == pytest.approx(worker[f"{key}_ns"] / 1e9)
        buckets = sorted((float(dict(found)["le"]), value) for (sample, found), value in samples.items()
                         if sample == f"{name}_bucket")
        assert buckets[0] == (1.024e-6, worker[key][0]) and buckets[-1] == (float("inf"), sum(worker[key]))
        assert [value for _, value in buckets] == list(itertools.accumulate(worker[key]))
    assert list(families) == ["pyloop_loops"]
    turn_ns = worker["turn_durations_ns"]
    assert 0 < turn_ns < 10e9
    assert worker["callback_durations_ns"] <= turn_ns


def test_prometheus_in_parallel_mode(backend):
    async def main():
        await asyncio.gather(*[pyloop.spawn(asyncio.sleep(0)) for _ in range(20)])
        return numbers()[-1], pyloop.metrics.prometheus()

    number, text = pyloop.run(main(), parallel=True, workers=2, backend=backend)
    families = parse(text)
    ended = {dict(labels)["worker"]: value for (_, labels), value in families["pyloop_strands_ended_total"][1].items()
             if dict(labels)["loop"] == str(number)}
    assert sorted(ended) == ["0", "1"] and sum(ended.values()) == 20
    assert families["pyloop_queue_delay_seconds"][0] == "histogram"
    assert families["pyloop_injector_depth"][0] == "gauge"


def test_prometheus_without_a_loop():
    assert parse(pyloop.metrics.prometheus([])) == {"pyloop_loops": ("gauge", {("pyloop_loops", frozenset()): 0})}


def test_snapshots_while_loops_come_and_go(backend):
    is_ended = False

    def look():
        while not is_ended:
            parse(pyloop.metrics.prometheus())

    def come_and_go():
        for _ in range(20):
            pyloop.run(asyncio.sleep(0), backend=backend)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        looking = pool.submit(look)
        try:
            for working in [pool.submit(come_and_go) for _ in range(3)]:
                working.result()
        finally:
            is_ended = True
        looking.result()
