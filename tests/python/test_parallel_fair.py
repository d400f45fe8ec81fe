"""Parallel mode: callbacks without end hold up neither connections, nor timers, nor the other workers."""

import asyncio
import socket
import sysconfig
import threading

import parallel_kit
import pytest

import pyloop

VIEWS = 2
CIRCULATING = 50_000  # in each view
EXCHANGES = 10
# Between question and answer: two to four turns of a millisecond. Without a limit it would be two rounds or more.
STEPS_MAX = CIRCULATING // 2
HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")


class Circle:
    """What circulates in one view, in order, until `is_over`."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.steps = 0
        self.is_over = False
        self.disorder = []

    def step(self, index):
        if self.steps % CIRCULATING != index:
            self.disorder.append((self.steps, index))
        self.steps += 1


async def circulate_by_tasks(circle):
    async def one(index):
        while not circle.is_over:
            circle.step(index)
            await asyncio.sleep(0)

    return [asyncio.create_task(one(index)) for index in range(CIRCULATING)]


async def circulate_by_callbacks(circle):
    def one(index):
        if not circle.is_over:
            circle.step(index)
            circle.loop.call_soon(one, index)

    for index in range(CIRCULATING):
        circle.loop.call_soon(one, index)
    return []


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Client(asyncio.Protocol):
    """Asks and is answered; beside each question it starts a timer. Counts the steps that both take."""

    def __init__(self, circle):
        self.circle = circle
        self.is_served = circle.loop.create_future()
        self.answer_steps = []
        self.timer_steps = []

    def connection_made(self, transport):
        self.transport = transport

    def ask(self):
        self.asked = self.circle.steps
        self.transport.write(b"x")
        self.circle.loop.call_later(1e-6, self.on_timer, self.asked)

    def data_received(self, data):
        self.answer_steps.append(self.circle.steps - self.asked)
        if len(self.answer_steps) < EXCHANGES:
            self.ask()

    def on_timer(self, started):
        self.timer_steps.append(self.circle.steps - started)
        if len(self.timer_steps) == EXCHANGES:
            self.is_served.set_result(None)


async def serve_beside(circulate):
    circle = Circle()
    left, right = socket.socketpair()
    server, _ = await circle.loop.connect_accepted_socket(Echo, left)
    transport, client = await circle.loop.connect_accepted_socket(lambda: Client(circle), right)
    tasks = await circulate(circle)
    while circle.steps < CIRCULATING:
        await asyncio.sleep(0)
    client.ask()
    await client.is_served
    circle.is_over = True
    await asyncio.gather(*tasks)
    transport.close()
    server.close()
    return threading.get_ident(), client.answer_steps, client.timer_steps, circle.disorder


@pytest.mark.parametrize("circulate", [circulate_by_tasks, circulate_by_callbacks])
def test_connections_and_timers_are_served(backend, circulate):
    """100,000 on two workers. An answer waits for some turns; a timer, behind what is ready, for a round."""
    async def main():
        results = await asyncio.gather(serve_beside(circulate), parallel_kit.there(serve_beside(circulate)))
        return results, asyncio.get_running_loop().metrics()["workers"]

    with parallel_kit.parallel_runner(backend, workers=VIEWS) as (runner, reports):
        results, workers = runner.run(main())
    assert reports == []
    assert len({thread for thread, *_ in results}) == VIEWS
    for _, answer_steps, timer_steps, disorder in results:
        assert len(answer_steps) == len(timer_steps) == EXCHANGES
        assert max(answer_steps) < STEPS_MAX
        assert max(timer_steps) < CIRCULATING + STEPS_MAX
        assert disorder == []
    assert all(worker["turns_cut"] > 0 for worker in workers)


@pytest.mark.parametrize("is_stopped_before", [True, False])
def test_stop_lets_run_what_was_ready(new_loop, is_stopped_before):
    """The last turn has no time limit: asyncio runs what was ready when it began, and nothing else."""
    loop = new_loop(parallel=True, workers=VIEWS)
    ran, late = [], []

    def one(index):
        if index == 0:
            loop.stop()
        ran.append(index)
        loop.call_soon(late.append, index)

    if is_stopped_before:
        loop.stop()
    for index in range(CIRCULATING):
        loop.call_soon(one, index)
    loop.run_forever()
    assert ran == list(range(CIRCULATING))
    assert late == []


@pytest.mark.skipif(not HAS_GIL, reason="no GIL, no baton")
def test_nobody_waits_too_long_for_the_gil(backend):
    """Busy workers pass the GIL on between their turns, each of which is short."""
    ready = 60_000  # some 20 ms, if nothing ended the turn

    async def circulate():
        loop = asyncio.get_running_loop()
        left = 3 * ready

        def one():
            nonlocal left
            left -= 1
            if left > 0:
                loop.call_soon(one)

        for index in range(ready):
            loop.call_soon(one)
            if index % 1000 == 0:  # all at once would take long, too
                await asyncio.sleep(0)
        while left > 0:
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(circulate(), parallel_kit.there(circulate()))
        return asyncio.get_running_loop().metrics()["workers"]

    with parallel_kit.parallel_runner(backend, workers=VIEWS) as (runner, reports):
        workers = runner.run(main())
    assert reports == []
    turns = sum(worker["turns_cut"] for worker in workers)
    assert all(worker["turns_cut"] > 10 for worker in workers)
    # Where turns are too long, each of them makes the other worker wait too long. A thread that the kernel takes off
    # its core for 5 ms, or that collects garbage, looks the same, but not in every fourth turn.
    assert sum(worker["baton_timeouts"] for worker in workers) < turns / 4


@pytest.mark.skipif(not HAS_GIL, reason="no GIL, no baton")
def test_a_callback_that_blocks_is_counted(backend):
    """It has the baton and not the GIL, and waits for a worker that therefore gets the GIL without its turn."""
    ran = threading.Event()

    async def main():
        first = asyncio.get_running_loop()
        first._other_views[0].call_soon_threadsafe(ran.set)
        assert ran.wait(30)
        return first.metrics()["workers"]

    workers = pyloop.run(main(), parallel=True, workers=VIEWS, backend=backend)
    assert workers[1]["baton_timeouts"] > 0
